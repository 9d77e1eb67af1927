import { useSignal, useSignalEffect } from "@preact/signals";
import type { Session } from "../app/session";

const QUIET_MS = 700;

/** Says when the server is away, politely, and not for a hiccup. */
export function Connection({ session }: { session: Session }) {
  const shown = useSignal<"" | "away" | "back" | "refused">("");
  useSignalEffect(() => {
    const status = session.status.value;
    if (status === "online") {
      if (shown.peek() === "away") {
        shown.value = "back";
        const timer = setTimeout(() => (shown.value = ""), 2_500);
        return () => clearTimeout(timer);
      }
      return;
    }
    if (status === "stopped") {
      shown.value = "refused";
      return;
    }
    const timer = setTimeout(() => (shown.value = "away"), QUIET_MS);
    return () => clearTimeout(timer);
  });
  const unkept = useSignal(false);
  useSignalEffect(() => {
    if (!session.outgoing.unkept.value) {
      unkept.value = false;
      return;
    }
    const timer = setTimeout(() => (unkept.value = true), QUIET_MS);
    return () => clearTimeout(timer);
  });
  const text = {
    "": "",
    away: "Connection lost. Reconnecting… What you write is kept and sent later.",
    back: "Connected again.",
    refused: "The server does not accept this sign-in. Sign out and choose a name again.",
  }[shown.value];
  return (
    <>
      <div class={`connection connection-${shown.value || "fine"}`} role="status" aria-live="polite">
        {text}
      </div>
      {unkept.value && (
        <div class="connection connection-away" role="alert">
          This browser does not let Darda keep what is not sent yet. Leave this page open until it is.
        </div>
      )}
    </>
  );
}

import type { Session } from "../app/session";
import type { Act } from "../engine/frames";
import { hrefOf } from "./routes";

/** What was refused for good in rooms that are not in the list: its text is not lost before somebody says so. */
export function NotSent({ session }: { session: Session }) {
  const stranded = session.outgoing.stranded.value;
  if (!session.ready.value || stranded.length === 0) return null;
  return (
    <section aria-label="Not sent">
      <h2>Not sent</h2>
      <ul>
        {stranded.map(({ act, failure }) => (
          <li key={act.id} class="not-sent">
            <a href={hrefOf(act.room ?? "")}>#{act.room}</a>
            <p class="text" dir="auto">
              {textOf(act)}
            </p>
            <div class="refused">
              <span>{failure?.message || failure?.code}</span>
              <button type="button" class="link" onClick={() => session.outgoing.discard(act.id)}>
                Discard
              </button>
            </div>
          </li>
        ))}
      </ul>
    </section>
  );
}

function textOf(act: Act): string {
  if (act.type === "delete") return "The deletion of a message";
  return act.type === "react" ? act.emoji : act.text;
}

import { type Signal, useSignal } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import type { Room } from "../app/room";
import type { Session } from "../app/session";
import { Icon } from "./icons";
import type { Writing } from "./room-view";

const IDLE_MS = 5_000;

/** The field for a new message, a reply or an edit. Enter sends, Shift+Enter breaks the line, Escape gives up. */
export function Composer(props: { session: Session; room: Room; writing: Signal<Writing> }) {
  const { session, room, writing } = props;
  const field = useRef<HTMLTextAreaElement>(null);
  const idle = useRef<ReturnType<typeof setTimeout>>(undefined);
  const problem = useSignal("");
  const empty = useSignal(room.draft.trim() === "");
  const mode = writing.value;

  const put = (text: string) => {
    const el = field.current;
    if (!el) return;
    el.value = text;
    empty.value = text.trim() === "";
    grow(el);
  };

  useLayoutEffect(() => {
    put(mode.kind === "edit" ? (mode.message.text ?? "") : room.draft);
    if (mode.kind !== "new" || !matchMedia("(pointer: coarse)").matches) field.current?.focus();
  }, [mode]);
  useEffect(() => () => clearTimeout(idle.current), []);

  const typed = () => {
    const el = field.current;
    if (!el) return;
    if (mode.kind !== "edit") room.draft = el.value;
    empty.value = el.value.trim() === "";
    problem.value = "";
    grow(el);
    session.typing(room, el.value.trim() !== "");
    clearTimeout(idle.current);
    idle.current = setTimeout(() => session.typing(room, false), IDLE_MS);
  };

  const submit = (e?: Event) => {
    e?.preventDefault();
    const text = field.current?.value.trim() ?? "";
    if (!text) return;
    const bytes = new TextEncoder().encode(text).length;
    if (bytes > session.textBytes) {
      problem.value = `This is ${bytes.toLocaleString()} bytes long; the server takes up to ${session.textBytes.toLocaleString()}.`;
      return;
    }
    if (mode.kind === "edit") {
      if (text !== mode.message.text) session.edit(room, mode.message.seq, text);
    } else {
      session.send(room, text, mode.kind === "reply" ? mode.to.seq : undefined);
      room.draft = "";
    }
    clearTimeout(idle.current);
    session.typing(room, false);
    writing.value = { kind: "new" };
    put(room.draft);
    field.current?.focus();
  };

  const keys = (e: KeyboardEvent) => {
    if (e.key === "Enter" && !e.shiftKey && !e.isComposing) submit(e);
    else if (e.key === "Escape" && mode.kind !== "new") {
      e.preventDefault();
      writing.value = { kind: "new" };
    } else if (e.key === "ArrowUp" && field.current?.value === "") {
      const last = room.timeline.messages.findLast((m) => m.from === session.user && !m.deleted);
      if (!last) return;
      e.preventDefault();
      writing.value = { kind: "edit", message: last };
    }
  };

  return (
    <form class="composer" onSubmit={submit}>
      {mode.kind !== "new" && (
        <div class="composer-mode">
          <Icon name={mode.kind === "reply" ? "reply" : "edit"} size={16} />
          <span>
            {mode.kind === "reply" ? (
              <>
                Reply to <strong>{mode.to.from}</strong>: {mode.to.text}
              </>
            ) : (
              "Edit message"
            )}
          </span>
          <button
            type="button"
            class="icon-button icon-button-s"
            aria-label={mode.kind === "reply" ? "Do not reply" : "Do not edit"}
            onClick={() => (writing.value = { kind: "new" })}
          >
            <Icon name="close" size={16} />
          </button>
        </div>
      )}
      <div class="composer-box">
        <label class="hidden" for="composer">
          Message to {room.title.value}
        </label>
        <textarea
          id="composer"
          ref={field}
          rows={1}
          placeholder={`Message ${room.info.value.kind === "direct" ? room.title.value : `#${room.title.value}`}`}
          onInput={typed}
          onKeyDown={keys}
          aria-describedby="composer-problem"
          enterkeyhint="send"
        />
        <button
          type="submit"
          class="send"
          aria-label={mode.kind === "edit" ? "Save" : "Send"}
          disabled={empty.value}
        >
          <Icon name={mode.kind === "edit" ? "check" : "send"} size={18} />
        </button>
      </div>
      <p id="composer-problem" class="hint hint-bad" role="alert">
        {problem.value}
      </p>
    </form>
  );
}

/** Browsers that size a field by its content do it in CSS. */
function grow(el: HTMLTextAreaElement): void {
  if (CSS.supports("field-sizing", "content")) return;
  el.style.height = "auto";
  el.style.height = `${el.scrollHeight}px`;
}

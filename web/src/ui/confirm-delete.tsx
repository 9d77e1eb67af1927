import type { Signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import type { Message } from "../timeline/timeline";

/** Asks once before a message is deleted for everybody. */
export function ConfirmDelete(props: {
  message: Signal<Message | null>;
  onDelete: (message: Message) => void;
  /** The focus is free again. */
  onClosed: () => void;
}) {
  const dialog = useRef<HTMLDialogElement>(null);
  const message = props.message.value;
  useEffect(() => {
    if (message) dialog.current?.showModal();
    else dialog.current?.close();
  }, [message]);
  return (
    <dialog
      ref={dialog}
      class="dialog"
      aria-labelledby="delete-title"
      onClose={() => {
        props.message.value = null;
        props.onClosed();
      }}
    >
      <h2 id="delete-title">Delete this message?</h2>
      <blockquote>{message?.text}</blockquote>
      <p class="muted">It disappears for everybody in the room. This cannot be undone.</p>
      <div class="dialog-buttons">
        <button type="button" class="button" onClick={() => (props.message.value = null)}>
          Keep it
        </button>
        <button
          type="button"
          class="button button-danger"
          onClick={() => {
            if (message) props.onDelete(message);
            props.message.value = null;
          }}
        >
          Delete
        </button>
      </div>
    </dialog>
  );
}

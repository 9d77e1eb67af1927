import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import type { Pending } from "../app/room";
import { linkify } from "../text/linkify";
import { clockTime, fullTime } from "../text/times";
import type { Message } from "../timeline/timeline";
import { Avatar } from "./avatar";
import { Icon, type IconName } from "./icons";
import { memo } from "./memo";

export interface RowActions {
  reply(message: Message): void;
  edit(message: Message): void;
  remove(message: Message): void;
  react(message: Message, emoji: string): void;
  show(seq: number): void;
  retry(id: string): void;
  discard(id: string): void;
}

type DeliveryStatus = "sending" | "sent" | "delivered" | "seen" | "failed";

const STATUS: Record<DeliveryStatus, { icon: IconName; label: string }> = {
  sending: { icon: "clock", label: "Sending" },
  sent: { icon: "check", label: "Sent" },
  delivered: { icon: "checks", label: "Delivered" },
  seen: { icon: "check", label: "Seen" },
  failed: { icon: "alert", label: "Not sent" },
};

const EMOJI = ["👍", "❤️", "😂", "🎉", "😮", "😢", "👀", "✅"];

interface RowProps {
  id: string;
  message: Message;
  follows: boolean;
  me: string;
  status: "sent" | "delivered" | "seen" | null;
  seenBy: string;
  replied: Message | null;
  /** An edit, deletion or reaction that the server refused. */
  refused: Pending | null;
  tabStop: boolean;
  flash: boolean;
  /** Under the pointer or with the focus: only then its buttons are in the page. */
  active: boolean;
  actions: RowActions;
}

export const MessageRow = memo(function MessageRow(props: RowProps) {
  const { message, me, actions, refused } = props;
  const mine = message.from === me;
  return (
    <Frame {...props} from={message.from} at={message.at} replyTo={message.reply_to}>
      {message.deleted ? (
        <p class="text text-deleted">This message was deleted.</p>
      ) : (
        <Text text={message.text ?? ""} edited={message.edited_at} />
      )}
      {message.reactions.length > 0 && (
        <div class="reactions">
          {message.reactions.map((r) => (
            <button
              key={r.emoji}
              type="button"
              class="reaction"
              aria-pressed={r.users.includes(me)}
              aria-label={`${r.emoji} ${r.users.length}, by ${r.users.join(", ")}`}
              title={r.users.join(", ")}
              onClick={() => actions.react(message, r.emoji)}
            >
              <span aria-hidden="true">{r.emoji}</span> {r.users.length}
            </button>
          ))}
        </div>
      )}
      {refused && <Refused pending={refused} actions={actions} />}
      {props.status && <Status status={props.status} seenBy={props.seenBy} />}
      {props.active && !message.deleted && <Tools message={message} mine={mine} actions={actions} />}
    </Frame>
  );
});

export const UnsentRow = memo(function UnsentRow(props: {
  id: string;
  pending: Pending;
  follows: boolean;
  me: string;
  replied: Message | null;
  tabStop: boolean;
  actions: RowActions;
}) {
  const { pending, me, actions } = props;
  if (pending.act.type !== "send") return null;
  return (
    <Frame
      {...props}
      flash={false}
      from={me}
      at={pending.at}
      replyTo={pending.act.reply_to}
      extra={`unsent unsent-${pending.state}`}
    >
      <Text text={pending.act.text} />
      {pending.state === "failed" && <Refused pending={pending} actions={actions} />}
      <Status status={pending.state} seenBy="" />
    </Frame>
  );
});

function Frame(props: {
  id: string;
  from: string;
  at: string;
  follows: boolean;
  replied: Message | null;
  replyTo?: number | undefined;
  tabStop: boolean;
  flash: boolean;
  extra?: string;
  actions: RowActions;
  children: preact.ComponentChildren;
}) {
  const { from, at, replied, replyTo } = props;
  const classes = ["row", props.follows && "row-follows", props.flash && "row-flash", props.extra];
  return (
    <article
      class={classes.filter(Boolean).join(" ")}
      data-row={props.id}
      tabIndex={props.tabStop ? 0 : -1}
      aria-label={`${from}, ${clockTime(at)}`}
    >
      {props.follows ? (
        <time class="row-time-side" dateTime={at} title={fullTime(at)}>
          {clockTime(at)}
        </time>
      ) : (
        <Avatar name={from} />
      )}
      <div class="row-body">
        {!props.follows && (
          <div class="row-head">
            <strong>{from}</strong>
            <time dateTime={at} title={fullTime(at)}>
              {clockTime(at)}
            </time>
          </div>
        )}
        {replyTo !== undefined && (
          <button type="button" class="quote" onClick={() => props.actions.show(replyTo)}>
            <Icon name="reply" size={14} />
            {replied ? (
              <>
                <strong>{replied.from}</strong> <span>{replied.text ?? "This message was deleted."}</span>
              </>
            ) : (
              <span>An earlier message</span>
            )}
          </button>
        )}
        {props.children}
      </div>
    </article>
  );
}

/** What somebody wrote, as text. Only http and https addresses become links. */
function Text({ text, edited }: { text: string; edited?: string | undefined }) {
  return (
    <p class="text" dir="auto">
      {linkify(text).map((piece, i) =>
        piece.kind === "text" ? (
          piece.text
        ) : (
          <a key={i} href={piece.href} target="_blank" rel="noopener noreferrer">
            {piece.text}
          </a>
        ),
      )}
      {edited && (
        <span class="edited" title={fullTime(edited)}>
          {" "}
          (edited)
        </span>
      )}
    </p>
  );
}

function Status({ status, seenBy }: { status: DeliveryStatus; seenBy: string }) {
  const { icon, label } = STATUS[status];
  const text = seenBy ? `${label} by ${seenBy}` : label;
  return (
    <span class={`status status-${status}`} data-status={status} title={text}>
      <Icon name={icon} size={15} />
      <span class="hidden">{text}</span>
    </span>
  );
}

const WHAT = { send: "sent", edit: "edited", delete: "deleted", react: "changed" } as const;

function Refused({ pending, actions }: { pending: Pending; actions: RowActions }) {
  const { id, type } = pending.act;
  return (
    <div class="refused" role="alert">
      <span>
        Could not be {WHAT[type]}: {pending.failure?.message || pending.failure?.code}
      </span>
      <button type="button" class="link" onClick={() => actions.retry(id)}>
        Try again
      </button>
      <button type="button" class="link" onClick={() => actions.discard(id)}>
        Discard
      </button>
    </div>
  );
}

function Tools({ message, mine, actions }: { message: Message; mine: boolean; actions: RowActions }) {
  const picking = useSignal(false);
  const toggle = useRef<HTMLButtonElement>(null);
  const picker = useRef<HTMLDivElement>(null);
  useEffect(() => {
    if (picking.value) picker.current?.querySelector("button")?.focus();
  }, [picking.value]);
  const leave = (e: FocusEvent) => {
    if (!(e.currentTarget as HTMLElement).contains(e.relatedTarget as Node | null)) picking.value = false;
  };
  const done = () => {
    picking.value = false;
    toggle.current?.focus();
  };
  return (
    <div
      class={`tools ${picking.value ? "tools-open" : ""}`}
      role="group"
      aria-label="Message actions"
      onFocusOut={leave}
      onKeyDown={(e) => {
        if (e.key !== "Escape" || !picking.value) return;
        e.preventDefault();
        done();
      }}
    >
      <button
        ref={toggle}
        type="button"
        class="tool"
        aria-label="Add a reaction"
        title="React"
        aria-expanded={picking.value}
        onClick={() => (picking.value = !picking.value)}
      >
        <Icon name="smile" />
      </button>
      <button
        type="button"
        class="tool"
        aria-label="Reply"
        title="Reply"
        onClick={() => actions.reply(message)}
      >
        <Icon name="reply" />
      </button>
      {mine && (
        <>
          <button
            type="button"
            class="tool"
            aria-label="Edit"
            title="Edit"
            onClick={() => actions.edit(message)}
          >
            <Icon name="edit" />
          </button>
          <button
            type="button"
            class="tool"
            aria-label="Delete"
            title="Delete"
            onClick={() => actions.remove(message)}
          >
            <Icon name="trash" />
          </button>
        </>
      )}
      {picking.value && (
        <div ref={picker} class="picker" role="group" aria-label="Choose a reaction">
          {EMOJI.map((emoji) => (
            <button
              key={emoji}
              type="button"
              aria-label={`React with ${emoji}`}
              onClick={() => {
                done();
                actions.react(message, emoji);
              }}
            >
              {emoji}
            </button>
          ))}
        </div>
      )}
    </div>
  );
}

import { type Signal, useSignal } from "@preact/signals";
import { useEffect, useLayoutEffect, useMemo, useRef } from "preact/hooks";
import type { Part, Room } from "../app/room";
import type { Session } from "../app/session";
import { dayLabel } from "../text/times";
import type { Message } from "../timeline/timeline";
import { ConfirmDelete } from "./confirm-delete";
import { Icon } from "./icons";
import { failedBelow, type Item, itemsOf } from "./items";
import { MessageRow, type RowActions, UnsentRow } from "./message-row";
import type { Writing } from "./room-view";
import { goTo } from "./routes";
import { type ListHandle, VirtualList } from "./virtual-list";

/** Messages of the open room that stay in memory while its end is in view. */
const KEPT = 3_000;

export function MessageList(props: { session: Session; room: Room; writing: Signal<Writing> }) {
  const { session, room, writing } = props;
  const list = useRef<ListHandle>(null);
  const region = useRef<HTMLDivElement>(null);
  const atEnd = useSignal(true);
  const focused = useSignal<string | null>(null);
  const pointed = useSignal<string | null>(null);
  const flash = useSignal<string | null>(null);
  const deleting = useSignal<Message | null>(null);
  const wantFocus = useRef<string | null>(null);

  const version = room.version.value;
  const newAfter = room.newAfter.value;
  const items = useMemo(() => itemsOf(room, session.user), [room, version, newAfter]);
  const acts = room.acts();

  const read = () => {
    const visible = document.visibilityState === "visible" && document.hasFocus();
    if (visible && atEnd.peek() && room.timeline.atEnd) session.markRead(room);
    // Only while the end is in view: nobody looks at what goes.
    if (atEnd.peek() && room.timeline.trim(KEPT)) room.changed();
  };
  useEffect(read, [version, atEnd.value]);
  useEffect(() => {
    window.addEventListener("focus", read);
    document.addEventListener("visibilitychange", read);
    return () => {
      window.removeEventListener("focus", read);
      document.removeEventListener("visibilitychange", read);
    };
  }, []);

  const toEnd = () => {
    if (room.timeline.atEnd) list.current?.toEnd();
    else void session.history.latest(room).then(() => list.current?.toEnd());
  };
  const wrote = room.wrote.value;
  useEffect(() => {
    if (wrote > 0) toEnd();
  }, [wrote]);

  const jump = session.jump.value;
  useLayoutEffect(() => {
    if (!jump || jump.room !== room.id) return;
    const target = room.timeline.find(jump.seq);
    if (!target || !list.current?.show(target.id, "middle")) return;
    session.jump.value = null;
    flash.value = target.id;
    wantFocus.current = target.id;
  }, [jump, version]);

  const focusWanted = () => {
    const key = wantFocus.current;
    const row = key ? region.current?.querySelector<HTMLElement>(`[data-row="${CSS.escape(key)}"]`) : null;
    row?.focus({ preventScroll: true });
    // As long as a dialog is open, nothing else takes the focus.
    if (row && document.activeElement === row) wantFocus.current = null;
  };
  useLayoutEffect(focusWanted);

  const actions = useMemo<RowActions>(
    () => ({
      reply: (to) => {
        writing.value = { kind: "reply", to };
      },
      edit: (message) => {
        writing.value = { kind: "edit", message };
      },
      remove: (message) => {
        deleting.value = message;
      },
      react: (message, emoji) => {
        const mine = message.reactions.some((r) => r.emoji === emoji && r.users.includes(session.user));
        session.react(room, message.seq, emoji, !mine);
      },
      show: (seq) => {
        const found = room.timeline.find(seq);
        if (found) session.jump.value = { room: room.id, seq, at: Date.now() };
        else goTo(room.id, seq);
      },
      retry: (id) => session.outgoing.retry(id),
      discard: (id) => session.outgoing.discard(id),
    }),
    [room],
  );

  const move = (e: KeyboardEvent) => {
    const by = { ArrowUp: -1, ArrowDown: 1 }[e.key];
    if (!by || !focused.value || !(e.target as HTMLElement).matches("[data-row]")) return;
    const from = items.findIndex((i) => i.key === focused.value);
    for (let i = from + by; i >= 0 && i < items.length; i += by) {
      const item = items[i];
      if (item?.kind !== "message" && item?.kind !== "unsent") continue;
      e.preventDefault();
      focused.value = wantFocus.current = item.key;
      list.current?.show(item.key, "nearest");
      return;
    }
  };

  const lastRow = items.findLast((i) => i.kind === "message" || i.kind === "unsent")?.key ?? "";
  const tabStop = focused.value && items.some((i) => i.key === focused.value) ? focused.value : lastRow;
  const delivered = room.deliveredTo.value;
  const seen = room.seenTo.value;
  const draw = (item: Item) => {
    switch (item.kind) {
      case "start":
        return <Start room={room} me={session.user} onRetry={() => void session.loadAgain(room)} />;
      case "end":
        return <Unread part={failedBelow(room)} onRetry={() => void session.loadAgain(room)} />;
      case "day":
        return (
          <div class="line">
            <span>{dayLabel(item.at, new Date())}</span>
          </div>
        );
      case "new":
        return (
          <div class="line line-new">
            <span>New</span>
          </div>
        );
      case "message": {
        const message = room.withActs(item.message, acts);
        const { seq } = message;
        const mine = message.from === session.user;
        return (
          <MessageRow
            id={item.key}
            message={message}
            follows={item.follows}
            me={session.user}
            status={mine ? (seq <= seen ? "seen" : seq <= delivered ? "delivered" : "sent") : null}
            seenBy={mine && seq <= seen ? room.seenBy(seq).join(", ") : ""}
            replied={message.reply_to === undefined ? null : (room.timeline.find(message.reply_to) ?? null)}
            refused={acts.find((a) => a.state === "failed" && "seq" in a.act && a.act.seq === seq) ?? null}
            tabStop={tabStop === item.key}
            active={pointed.value === item.key || focused.value === item.key}
            flash={flash.value === item.key}
            actions={actions}
          />
        );
      }
      case "unsent":
        return (
          <UnsentRow
            id={item.key}
            pending={item.pending}
            follows={item.follows}
            me={session.user}
            replied={
              item.pending.act.type === "send" && item.pending.act.reply_to !== undefined
                ? (room.timeline.find(item.pending.act.reply_to) ?? null)
                : null
            }
            tabStop={tabStop === item.key}
            actions={actions}
          />
        );
    }
  };

  const behind = room.unread.value;
  return (
    <div
      class="messages"
      ref={region}
      onKeyDown={move}
      onFocusIn={(e) => {
        const key = rowOf(e.target);
        if (key) focused.value = key;
      }}
      onPointerOver={(e) => {
        const key = rowOf(e.target);
        if (key !== pointed.value) pointed.value = key;
      }}
      onPointerLeave={() => {
        pointed.value = null;
      }}
    >
      <VirtualList
        items={items}
        estimate={estimate}
        row={draw}
        follow={room.timeline.atEnd}
        keep={tabStop}
        onNearStart={() => {
          if (!room.failedToLoad.peek().has("older")) void session.history.older(room);
        }}
        onNearEnd={() => {
          if (!room.failedToLoad.peek().has("newer")) void session.history.newer(room);
        }}
        onAtEnd={(end) => (atEnd.value = end)}
        handle={list}
        label={`Messages in ${room.title.value}`}
      />
      {(!atEnd.value || (!room.timeline.atEnd && items.length > 1)) && (
        <button type="button" class="to-end" onClick={toEnd}>
          <Icon name="down" size={16} />
          {behind > 0 ? `${behind} new ${behind === 1 ? "message" : "messages"}` : "Newest messages"}
        </button>
      )}
      <ConfirmDelete
        message={deleting}
        onDelete={(m) => {
          // The button that opened the dialog goes away with the text.
          wantFocus.current = m.id;
          session.delete(room, m.seq);
        }}
        onClosed={focusWanted}
      />
    </div>
  );
}

function rowOf(target: EventTarget | null): string | null {
  return (target as HTMLElement).closest<HTMLElement>("[data-row]")?.dataset.row ?? null;
}

const UNREAD: Record<Part, string> = {
  older: "Earlier messages cannot be read at the moment.",
  newer: "Later messages cannot be read at the moment.",
  latest: "The messages cannot be read at the moment.",
};

/** Something could not be read; it is tried again when asked to, and when the connection is back. */
function Unread({ part, onRetry }: { part: Part | undefined; onRetry: () => void }) {
  return (
    <div class="start" role="alert">
      <p>{part && UNREAD[part]}</p>
      <button type="button" class="button" onClick={onRetry}>
        Try again
      </button>
    </div>
  );
}

/** The first row: what came before, or that nothing did. */
function Start({ room, me, onRetry }: { room: Room; me: string; onRetry: () => void }) {
  const empty = room.timeline.messages.length === 0;
  const failed = room.failedToLoad.value.has("older") ? "older" : empty && failedBelow(room);
  if (failed) return <Unread part={failed} onRetry={onRetry} />;
  if (!room.timeline.atStart)
    return (
      <div class="start">
        <p class="muted">Loading messages…</p>
      </div>
    );
  const direct = room.info.value.kind === "direct";
  return (
    <div class="start start-first">
      <span class="start-mark" aria-hidden="true">
        {direct ? "@" : "#"}
      </span>
      <h2>{room.title.value}</h2>
      <p class="muted">
        {direct
          ? `Only you, ${me}, and ${room.title.value} can read this.`
          : empty
            ? "Nothing here yet. Write the first message, or share the address of this page to invite others."
            : "This is where the room begins."}
      </p>
    </div>
  );
}

const LINE_PX = 22;
const CHARACTER_PX = 7.4;

/** A first guess of a row's height, so that the scroll bar is about right before a row was ever drawn. */
function estimate(item: Item, width: number): number {
  if (item.kind === "start" || item.kind === "end") return 120;
  if (item.kind === "day" || item.kind === "new") return 44;
  const text =
    item.kind === "message"
      ? (item.message.text ?? "")
      : "text" in item.pending.act
        ? item.pending.act.text
        : "";
  const perLine = Math.max(20, (Math.min(width || 900, 900) - 110) / CHARACTER_PX);
  return Math.ceil(text.length / perLine) * LINE_PX + (item.follows ? 4 : 34);
}

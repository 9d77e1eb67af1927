import { type Signal, useSignal } from "@preact/signals";
import type { Room } from "../app/room";
import type { Session } from "../app/session";
import type { Message } from "../timeline/timeline";
import { Avatar } from "./avatar";
import type { Panel } from "./chat";
import { Composer } from "./composer";
import { Icon } from "./icons";
import { MessageList } from "./message-list";

/** What the composer is for at the moment. */
export type Writing = { kind: "new" } | { kind: "reply"; to: Message } | { kind: "edit"; message: Message };

/** The open room: its name, its messages, and the field to write in. */
export function RoomView(props: {
  session: Session;
  room: Room;
  drawer: Signal<boolean>;
  panel: Signal<Panel>;
}) {
  const { session, room } = props;
  const writing = useSignal<Writing>({ kind: "new" });
  return (
    <>
      <Header {...props} />
      <MessageList session={session} room={room} writing={writing} />
      <TypingLine room={room} />
      <Composer session={session} room={room} writing={writing} />
      <div class="hidden" aria-live="polite">
        {session.heard.value}
      </div>
    </>
  );
}

function Header({ session, room, drawer, panel }: Parameters<typeof RoomView>[0]) {
  const info = room.info.value;
  const other = info.kind === "direct" ? room.title.value : null;
  const presence = session.around.presence.value;
  const online = [...room.people.value].filter(
    (u) => u === session.user || presence.get(u) === "online",
  ).length;
  const toggle = (which: Panel) => {
    panel.value = panel.value === which ? null : which;
  };
  return (
    <header class="room-header">
      <button
        type="button"
        class="icon-button only-phone"
        id="show-rooms"
        aria-label="Show rooms"
        aria-expanded={drawer.value}
        onClick={() => (drawer.value = true)}
      >
        <Icon name="menu" size={20} />
      </button>
      {other && <Avatar name={other} status={presence.get(other) ?? "offline"} />}
      <div class="room-heading">
        <h1>
          {!other && <Icon name={info.kind === "private" ? "lock" : "hash"} size={17} />}
          {room.title.value}
        </h1>
        <p class="muted">
          {other ? (
            (presence.get(other) ?? "offline")
          ) : (
            <>
              {info.members} {info.members === 1 ? "member" : "members"}
              <span class="online-count">
                <span class="dot dot-online" /> {online} online
              </span>
              {info.topic && <span class="topic">{info.topic}</span>}
            </>
          )}
        </p>
      </div>
      <button
        type="button"
        class="icon-button"
        id="toggle-search"
        aria-label="Search"
        title="Search (Ctrl+K)"
        aria-pressed={panel.value === "search"}
        onClick={() => toggle("search")}
      >
        <Icon name="search" size={20} />
      </button>
      <button
        type="button"
        class="icon-button"
        id="toggle-members"
        aria-label="Members"
        title="Members"
        aria-pressed={panel.value === "members"}
        onClick={() => toggle("members")}
      >
        <Icon name="people" size={20} />
      </button>
    </header>
  );
}

function TypingLine({ room }: { room: Room }) {
  const who = room.typing.value;
  const text =
    who.length === 0
      ? ""
      : who.length === 1
        ? `${who[0]} is typing`
        : who.length === 2
          ? `${who[0]} and ${who[1]} are typing`
          : `${who[0]} and ${who.length - 1} others are typing`;
  return (
    <div class="typing" aria-live="polite">
      {text && (
        <>
          <span class="typing-dots" aria-hidden="true">
            <i />
            <i />
            <i />
          </span>
          {text}…
        </>
      )}
    </div>
  );
}

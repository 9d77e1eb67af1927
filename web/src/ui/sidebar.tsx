import { type Signal, useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import type { Room } from "../app/room";
import type { Session } from "../app/session";
import type { RoomInfo } from "../net/rest";
import { roomIdOf } from "../text/people";
import { briefTime } from "../text/times";
import { Avatar } from "./avatar";
import { Icon } from "./icons";
import { NotSent } from "./not-sent";
import { goTo, hrefOf } from "./routes";

/** Rooms with what is unread in them, a field that opens or makes one, and who I am. */
export function Sidebar(props: { session: Session; drawer: Signal<boolean>; onSignOut: () => void }) {
  const { session, drawer } = props;
  const nav = useRef<HTMLElement>(null);
  const typed = useSignal("");
  useEffect(() => {
    if (drawer.value && matchMedia("(max-width: 760px)").matches)
      nav.current?.querySelector<HTMLElement>("input")?.focus();
  }, [drawer.value]);

  const all = [...session.rooms.value.values()];
  const filter = typed.value.trim().replace(/^#/, "").toLowerCase();
  const matching = all.filter((r) => r.title.value.toLowerCase().includes(filter) || r.id.includes(filter));
  const rooms = matching.filter((r) => r.info.value.kind !== "direct").sort(byTitle);
  const direct = matching.filter((r) => r.info.value.kind === "direct").sort(byTitle);
  return (
    <nav class="sidebar" aria-label="Rooms" ref={nav}>
      <div class="brand">
        <img src="/favicon.svg" alt="" width="26" height="26" />
        <span>Darda</span>
        <button
          type="button"
          class="icon-button only-phone"
          aria-label="Close the list of rooms"
          onClick={() => (drawer.value = false)}
        >
          <Icon name="close" />
        </button>
      </div>
      <OpenRoom session={session} typed={typed} />
      <div class="rooms">
        <NotSent session={session} />
        <Section title="Rooms" rooms={rooms} session={session} drawer={drawer} />
        <Section title="Direct messages" rooms={direct} session={session} drawer={drawer} />
        {session.ready.value && all.length === 0 && (
          <p class="rooms-empty muted">No rooms yet. Type a name above to open one.</p>
        )}
        {!session.ready.value && <Skeleton />}
        <Suggestions session={session} filter={filter} typed={typed} />
      </div>
      <div class="me">
        <Avatar name={session.user} status={session.status.value === "online" ? "online" : "offline"} />
        <span class="me-name">{session.user}</span>
        <a class="icon-button" href="/docs" aria-label="API description" title="API description">
          <Icon name="book" />
        </a>
        <button
          type="button"
          class="icon-button"
          aria-label="Sign out"
          title="Sign out"
          onClick={props.onSignOut}
        >
          <Icon name="leave" />
        </button>
      </div>
    </nav>
  );
}

function OpenRoom({ session, typed }: { session: Session; typed: Signal<string> }) {
  const problem = useSignal("");
  const submit = async (e: Event) => {
    e.preventDefault();
    const name = typed.value.trim().replace(/^#/, "");
    if (!name) return;
    const known = [...session.rooms.value.values()].find((r) => r.title.value === name || r.id === name);
    const id = known?.id ?? roomIdOf(name);
    if (!id) {
      problem.value = "A room name needs a letter or digit.";
      return;
    }
    try {
      await session.openOrCreate(id, name);
      typed.value = "";
      problem.value = "";
      goTo(id);
    } catch (error) {
      problem.value = error instanceof Error ? error.message : "The room cannot be opened.";
    }
  };
  return (
    <form class="open-room" onSubmit={submit}>
      <label class="hidden" for="open-room">
        Find, open or create a room
      </label>
      <input
        id="open-room"
        value={typed.value}
        onInput={(e) => {
          typed.value = e.currentTarget.value;
          problem.value = "";
        }}
        placeholder="Find or create a room"
        autocomplete="off"
        spellcheck={false}
        maxLength={64}
        aria-describedby="open-room-problem"
      />
      <button type="submit" class="icon-button" aria-label="Open or create the room" title="Open or create">
        <Icon name="plus" />
      </button>
      <p id="open-room-problem" class="hint hint-bad" role="alert">
        {problem.value}
      </p>
    </form>
  );
}

function Section(props: { title: string; rooms: Room[]; session: Session; drawer: Signal<boolean> }) {
  if (props.rooms.length === 0) return null;
  return (
    <section>
      <h2>{props.title}</h2>
      <ul>
        {props.rooms.map((room) => (
          <RoomLink key={room.id} {...props} room={room} />
        ))}
      </ul>
    </section>
  );
}

function RoomLink({ room, session, drawer }: { room: Room; session: Session; drawer: Signal<boolean> }) {
  const info = room.info.value;
  const unread = room.unread.value;
  const here = session.currentId.value === room.id;
  const last = room.last.value;
  const other = info.kind === "direct" ? room.title.value : null;
  return (
    <li>
      <a
        class={`room-link ${unread > 0 && !here ? "room-unread" : ""}`}
        href={hrefOf(room.id)}
        aria-current={here ? "page" : undefined}
        onClick={() => (drawer.value = false)}
      >
        {other ? (
          <Avatar name={other} size="s" status={session.around.presence.value.get(other) ?? "offline"} />
        ) : (
          <span class="room-mark">
            <Icon name={info.kind === "private" ? "lock" : "hash"} size={16} />
          </span>
        )}
        <span class="room-text">
          <span class="room-name">{room.title.value}</span>
          {last && (
            <span class="room-last">
              {last.from === session.user ? "You" : last.from}: {last.text ?? "message deleted"}
            </span>
          )}
        </span>
        <span class="room-side">
          {last && <time dateTime={last.at}>{briefTime(last.at, new Date())}</time>}
          {unread > 0 && !here && (
            <span class="badge">
              {unread > 99 ? "99+" : unread}
              <span class="hidden"> unread</span>
            </span>
          )}
        </span>
      </a>
    </li>
  );
}

/** Public rooms of the server that I am not in. */
function Suggestions({
  session,
  filter,
  typed,
}: {
  session: Session;
  filter: string;
  typed: Signal<string>;
}) {
  const found = useSignal<readonly RoomInfo[]>([]);
  const ready = session.ready.value;
  // A room that went away may be gone for everybody.
  const mine = session.rooms.value.size;
  useEffect(() => {
    if (!ready) return;
    let late = false;
    const timer = setTimeout(
      async () => {
        const page = await session.rest.publicRooms(filter).catch(() => null);
        if (page && !late) found.value = page.items;
      },
      filter ? 200 : 0,
    );
    return () => {
      late = true;
      clearTimeout(timer);
    };
  }, [filter, ready, mine]);
  const others = found.value.filter((r) => !session.rooms.value.has(r.id)).slice(0, 8);
  if (others.length === 0) return null;
  return (
    <section>
      <h2>More rooms</h2>
      <ul>
        {others.map((info) => (
          <li key={info.id}>
            <a
              class="room-link"
              href={hrefOf(info.id)}
              onClick={() => {
                typed.value = "";
              }}
            >
              <span class="room-mark">
                <Icon name="hash" size={16} />
              </span>
              <span class="room-text">
                <span class="room-name">{info.name}</span>
                <span class="room-last">
                  {info.members} {info.members === 1 ? "member" : "members"}
                </span>
              </span>
            </a>
          </li>
        ))}
      </ul>
    </section>
  );
}

function Skeleton() {
  return (
    <div class="skeleton" role="status">
      <span class="hidden">Loading your rooms</span>
      <i />
      <i />
      <i />
    </div>
  );
}

function byTitle(a: Room, b: Room): number {
  return a.title.value.localeCompare(b.title.value);
}

import { useSignal, useSignalEffect } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import type { Session } from "../app/session";
import { Connection } from "./connection";
import { Icon } from "./icons";
import { MembersPanel } from "./members-panel";
import { RoomView } from "./room-view";
import { goTo, parseRoute } from "./routes";
import { SearchPanel } from "./search-panel";
import { Sidebar } from "./sidebar";

const PHONE = matchMedia("(max-width: 760px)");

export type Panel = "search" | "members" | null;

/** The whole page once somebody is signed in: rooms, the open room, and one panel beside it. */
export function Chat({ session, onSignOut }: { session: Session; onSignOut: () => void }) {
  const drawer = useSignal(!parseRoute(location.hash));
  const panel = useSignal<Panel>(null);
  const phone = useSignal(PHONE.matches);
  const shut = () => {
    const was = panel.value;
    panel.value = null;
    document.getElementById(`toggle-${was}`)?.focus();
  };
  const wasOpen = useRef(false);
  const covered = phone.value && drawer.value;
  useEffect(() => {
    // Closing the drawer by hand gives the focus back to what opened it; opening a room moves it there.
    if (wasOpen.current && !covered && document.activeElement === document.body)
      document.getElementById("show-rooms")?.focus();
    wasOpen.current = covered;
  }, [covered]);

  useEffect(() => {
    const follow = () => {
      const route = parseRoute(location.hash);
      if (!route) return session.close();
      drawer.value = false;
      void session.open(route.room, route.seq);
    };
    const clicked = (e: MouseEvent) => {
      // A link to where the address is already changes nothing that could be followed.
      const link = (e.target as Element).closest<HTMLAnchorElement>('a[href^="#/"]');
      if (link && link.hash === location.hash && !e.ctrlKey && !e.metaKey && !e.shiftKey) follow();
    };
    const keys = (e: KeyboardEvent) => {
      if ((e.ctrlKey || e.metaKey) && e.key === "k") {
        e.preventDefault();
        panel.value = "search";
      } else if (e.key === "Escape" && !e.defaultPrevented) {
        if (panel.value) shut();
        else if (session.currentId.value) drawer.value = false;
      }
    };
    const resized = () => (phone.value = PHONE.matches);
    follow();
    PHONE.addEventListener("change", resized);
    window.addEventListener("hashchange", follow);
    window.addEventListener("keydown", keys);
    window.addEventListener("click", clicked);
    return () => {
      PHONE.removeEventListener("change", resized);
      window.removeEventListener("hashchange", follow);
      window.removeEventListener("keydown", keys);
      window.removeEventListener("click", clicked);
    };
  }, [session]);

  useSignalEffect(() => {
    // A room that is gone must not be entered again by a reload.
    if (session.currentId.value === null && parseRoute(location.hash)) history.replaceState(null, "", "#");
  });
  useSignalEffect(() => {
    const unread = session.unread.value;
    const room = session.current.value?.title.value;
    document.title = `${unread > 0 ? `(${unread}) ` : ""}${room ? `${room} · ` : ""}Darda`;
  });

  const room = session.current.value;
  return (
    <div class={`chat ${drawer.value ? "drawer-open" : ""} ${panel.value ? "panel-open" : ""}`}>
      <Sidebar session={session} drawer={drawer} onSignOut={onSignOut} />
      {drawer.value && (
        <button
          type="button"
          class="backdrop"
          aria-label="Close the list of rooms"
          tabIndex={-1}
          onClick={() => {
            drawer.value = false;
          }}
        />
      )}
      <main class="main" inert={covered} aria-label={room ? `Room ${room.title.value}` : "No room open"}>
        <Connection session={session} />
        {room ? (
          <RoomView key={room.id} session={session} room={room} drawer={drawer} panel={panel} />
        ) : (
          <Nothing session={session} onMenu={() => (drawer.value = true)} />
        )}
      </main>
      {panel.value === "search" && <SearchPanel session={session} room={room} onClose={shut} />}
      {panel.value === "members" && room && (
        <MembersPanel
          session={session}
          room={room}
          onClose={shut}
          onDirect={async (user) => goTo(await session.openDirect(user))}
        />
      )}
    </div>
  );
}

function Nothing({ session, onMenu }: { session: Session; onMenu: () => void }) {
  const waiting = session.currentId.value !== null && !session.trouble.value;
  return (
    <div class="nothing">
      <button
        type="button"
        class="icon-button only-phone nothing-menu"
        id="show-rooms"
        aria-label="Show rooms"
        onClick={onMenu}
      >
        <Icon name="menu" size={20} />
      </button>
      {waiting ? (
        <p class="muted" role="status">
          Opening the room…
        </p>
      ) : (
        <div class="nothing-text">
          <img src="/favicon.svg" alt="" width="56" height="56" />
          <h1>Good to see you, {session.user}</h1>
          {session.trouble.value && <p role="alert">{session.trouble.value}</p>}
          <p class="muted">
            {session.rooms.value.size > 0
              ? "Choose a room on the left to read on."
              : "Open your first room on the left: type a name and press Enter. Everybody who opens the same room is in it."}
          </p>
        </div>
      )}
    </div>
  );
}

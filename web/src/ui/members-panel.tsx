import { useEffect, useRef } from "preact/hooks";
import type { Room } from "../app/room";
import type { Session } from "../app/session";
import { Avatar } from "./avatar";
import { Icon } from "./icons";

/** Who is in the room and who of them is here now. */
export function MembersPanel(props: {
  session: Session;
  room: Room;
  onClose: () => void;
  onDirect: (user: string) => Promise<void>;
}) {
  const { session, room } = props;
  const close = useRef<HTMLButtonElement>(null);
  useEffect(() => {
    close.current?.focus();
    void session.history.members(room);
  }, [room]);
  const presence = session.around.presence.value;
  const statusOf = (user: string) => (user === session.user ? "online" : (presence.get(user) ?? "offline"));
  const roles = new Map(room.members.value.map((m) => [m.user, m.role]));
  const people = [...new Set([...roles.keys(), ...room.people.value])].sort(
    (a, b) => Number(statusOf(b) === "online") - Number(statusOf(a) === "online") || a.localeCompare(b),
  );
  return (
    <aside class="panel" aria-label="Members">
      <div class="panel-head">
        <h2>Members</h2>
        <button
          ref={close}
          type="button"
          class="icon-button"
          aria-label="Close the members"
          onClick={props.onClose}
        >
          <Icon name="close" />
        </button>
      </div>
      <ul class="members">
        {people.map((user) => (
          <li key={user}>
            <Avatar name={user} status={statusOf(user)} />
            <span class="member-text">
              <span>
                {user}
                {user === session.user && <span class="muted"> (you)</span>}
              </span>
              <span class="muted">
                {statusOf(user)}
                {roles.get(user) && roles.get(user) !== "member" ? ` · ${roles.get(user)}` : ""}
              </span>
            </span>
            {user !== session.user && (
              <button
                type="button"
                class="button button-s"
                aria-label={`Message ${user}`}
                onClick={() => void props.onDirect(user)}
              >
                Message
              </button>
            )}
          </li>
        ))}
      </ul>
      <button type="button" class="button panel-more" onClick={() => void session.leave(room)}>
        Leave this room
      </button>
    </aside>
  );
}

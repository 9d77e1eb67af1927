/** Who is here and who is typing: signals, which may get lost. */
import { signal } from "@preact/signals";
import type { PresenceStatus } from "../engine/frames";
import type { Room } from "./room";

/** The server names so many of a room at most; a list this long may lack others who are here. */
const ONLINE_LISTED_MAX = 50;
const TYPING_SHOWN_MS = 6_000;

export class Around {
  readonly presence = signal<ReadonlyMap<string, PresenceStatus>>(new Map());
  private readonly typingTimers = new Map<string, ReturnType<typeof setTimeout>>();

  changed(user: string, status: PresenceStatus): void {
    this.presence.value = new Map(this.presence.value).set(user, status);
  }

  /** Who of a room is here, as the server lists them. */
  listed(room: Room | undefined, users: readonly string[]): void {
    const presence = new Map(this.presence.value);
    // Who left while we were away is no longer in a complete list.
    if (room && users.length < ONLINE_LISTED_MAX)
      for (const user of room.people.value) if (presence.has(user)) presence.set(user, "offline");
    for (const user of users) presence.set(user, "online");
    this.presence.value = presence;
    room?.meet(users);
  }

  typed(room: Room, user: string, on: boolean): void {
    const key = `${room.id} ${user}`;
    clearTimeout(this.typingTimers.get(key));
    this.typingTimers.delete(key);
    if (!on) return room.stopTyping(user);
    room.startTyping(user);
    room.meet([user]);
    const end = () => {
      this.typingTimers.delete(key);
      room.stopTyping(user);
    };
    this.typingTimers.set(key, setTimeout(end, TYPING_SHOWN_MS));
  }
}

import type { Part, Pending, Room } from "../app/room";
import { dayOf } from "../text/times";
import type { Message } from "../timeline/timeline";

/** One row of the open room. */
export type Item =
  | { kind: "start"; key: string }
  | { kind: "day"; key: string; at: string }
  | { kind: "new"; key: string }
  /** Later messages could not be read. */
  | { kind: "end"; key: string }
  | { kind: "message"; key: string; message: Message; follows: boolean }
  | { kind: "unsent"; key: string; pending: Pending; follows: boolean };

const GROUP_MS = 5 * 60_000;

/** The rows of a room: messages under day lines, consecutive ones of a person drawn together, unsent ones last. */
export function itemsOf(room: Room, me: string): Item[] {
  const items: Item[] = [{ kind: "start", key: "start" }];
  const newAfter = room.newAfter.value;
  let day = 0;
  let before: { from: string; time: number } | null = null;
  let marked = newAfter === null;
  let lastAt = "";
  let hour = "";

  const dayLine = (at: string) => {
    // The date is only computed when the hour differs, for it is slow and most neighbours share the hour.
    if (at.slice(0, 13) === hour) return;
    hour = at.slice(0, 13);
    const d = dayOf(at);
    if (d === day) return;
    day = d;
    before = null;
    items.push({ kind: "day", key: `day-${d}-${lastAt}`, at });
  };
  const follows = (from: string, at: string): boolean => {
    const time = Date.parse(at);
    const near = before !== null && before.from === from && time - before.time < GROUP_MS;
    before = { from, time };
    return near;
  };

  for (const message of room.timeline.messages) {
    dayLine(message.at);
    if (!marked && newAfter !== null && message.seq > newAfter && message.from !== me) {
      marked = true;
      before = null;
      items.push({ kind: "new", key: "new" });
    }
    const grouped = follows(message.from, message.at) && message.reply_to === undefined;
    items.push({ kind: "message", key: message.id, message, follows: grouped });
    lastAt = message.id;
  }
  if (!room.timeline.atEnd) {
    if (items.length > 1 && failedBelow(room)) items.push({ kind: "end", key: "end" });
    return items;
  }
  for (const pending of room.unsent()) {
    if (pending.act.type !== "send") continue;
    dayLine(pending.at);
    const grouped = follows(me, pending.at) && pending.act.reply_to === undefined;
    items.push({ kind: "unsent", key: pending.act.id, pending, follows: grouped });
  }
  return items;
}

/** What could not be read is said where the person looks for it. */
export function failedBelow(room: Room): Part | undefined {
  return (["latest", "newer"] as const).find((part) => room.failedToLoad.value.has(part));
}

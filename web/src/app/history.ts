import type { MessagesQuery, Page, Rest } from "../net/rest";
import type { Message, Reading } from "../timeline/timeline";
import type { Part, Room } from "./room";

const PAGE = 100;
const LATER_PAGE = 200;

/** Fills the timelines of rooms from the HTTP API, one page at a time in each. */
export class History {
  /** The read that counts, of each room: a jump does not wait for the page before it. */
  private readonly current = new WeakMap<Room, object>();

  constructor(private readonly rest: Pick<Rest, "messages" | "members">) {}

  latest(room: Room): Promise<void> {
    return this.load(room, "latest", { limit: PAGE }, (reading, page) =>
      room.timeline.show(reading, page.items, { atStart: page.next === null, atEnd: true }),
    );
  }

  /** What stands on both sides of `seq`, in place of what is shown. */
  async around(room: Room, seq: number): Promise<void> {
    await this.load(room, "latest", { around: seq, limit: PAGE }, (reading, page) =>
      room.timeline.show(reading, page.items, { atStart: false, atEnd: false }),
    );
    // Nothing but other events there: an empty stretch would have no ends to read on from.
    if (
      room.loading.value === null &&
      room.timeline.messages.length === 0 &&
      room.failedToLoad.value.size === 0
    )
      await this.latest(room);
  }

  async older(room: Room): Promise<void> {
    const first = room.timeline.messages[0]?.seq;
    if (room.timeline.atStart || first === undefined || room.loading.value) return;
    await this.load(room, "older", { before: first, limit: LATER_PAGE }, (reading, page) =>
      room.timeline.addOlder(reading, page.items, page.next === null),
    );
  }

  async newer(room: Room): Promise<void> {
    const last = room.timeline.messages.at(-1)?.seq;
    if (room.timeline.atEnd || last === undefined || room.loading.value) return;
    await this.load(room, "newer", { after: last, limit: LATER_PAGE }, (reading, page) =>
      room.timeline.addNewer(reading, page.items, page.next === null),
    );
  }

  async members(room: Room): Promise<void> {
    try {
      const page = await this.rest.members(room.id);
      room.setMembers(page.items);
    } catch {
      // The list is an extra; receipts and presence still arrive.
    }
  }

  private async load(
    room: Room,
    part: Part,
    query: MessagesQuery,
    put: (reading: Reading, page: Page<Message>) => void,
  ): Promise<void> {
    const mine = {};
    this.current.set(room, mine);
    room.loading.value = part;
    if (room.failedToLoad.value.has(part)) {
      room.failedToLoad.value = failed(room, part, false);
      room.changed();
    }
    const reading = room.timeline.reading();
    const page = await this.page(room, query).catch(() => null);
    const superseded = this.current.get(room) !== mine;
    if (page && !superseded) put(reading, page);
    room.timeline.abandon(reading);
    if (superseded) return;
    room.loading.value = null;
    room.failedToLoad.value = failed(room, part, !page);
    room.changed();
  }

  /** A page that holds something, or the end: where the log is full of other events the server sends empty ones. */
  private async page(room: Room, query: MessagesQuery): Promise<Page<Message>> {
    let page = await this.rest.messages(room.id, query);
    while (page.items.length === 0 && page.next !== null)
      page = await this.rest.messages(room.id, { ...query, cursor: page.next });
    return page;
  }
}

/** What was not read at one end says nothing about the other; the newest page replaces both. */
function failed(room: Room, part: Part, on: boolean): ReadonlySet<Part> {
  const others = part === "latest" ? [] : [...room.failedToLoad.value].filter((other) => other !== part);
  return new Set(on ? [...others, part] : others);
}

/** One signed-in person in this tab: the engine, its link, the HTTP API, and what the page shows of them. */
import { computed, signal } from "@preact/signals";
import type { Effect, State } from "../engine/effect";
import { Engine } from "../engine/engine";
import type { LogEvent, ServerFrame } from "../engine/frames";
import { Drafts } from "../net/drafts";
import { Link } from "../net/link";
import { type InboxEntry, Rest, type RoomInfo } from "../net/rest";
import { Around } from "./around";
import { enterRoom } from "./enter";
import { History } from "./history";
import { Inbox } from "./inbox";
import { Outgoing } from "./outgoing";
import { Room } from "./room";

const CATCH_UP_MAX = 200;
const TYPING_SENT_EVERY_MS = 3_000;
/** Messages kept of a room that was open and is not. */
const KEPT_ASIDE = 100;
/** How a room is lost, to be followed by its name. */
const LOST: Record<string, string> = {
  left: "You have left",
  removed: "You were removed from",
  deleted: "Somebody deleted",
};
const NO_LONGER_IN = "You are no longer in";

export class Session {
  readonly rest: Rest;
  readonly history: History;
  readonly outgoing: Outgoing;
  readonly around = new Around();
  readonly status = signal<State["state"]>("connecting");
  /** The inbox was read at least once. */
  readonly ready = signal(false);
  readonly rooms = signal<ReadonlyMap<string, Room>>(new Map());
  readonly currentId = signal<string | null>(null);
  readonly current = computed(() => this.rooms.value.get(this.currentId.value ?? "") ?? null);
  /** The message to scroll to, once; `at` tells two jumps to the same message apart. */
  readonly jump = signal<{ room: string; seq: number; at: number } | null>(null);
  /** Why the room that was asked for is not open. */
  readonly trouble = signal<string | null>(null);
  /** The last message of somebody else in the open room, for a screen reader. */
  readonly heard = signal("");
  readonly unread = computed(() => {
    let sum = 0;
    for (const room of this.rooms.value.values()) sum += room.unread.value;
    return sum;
  });
  textBytes = 16_384;

  private readonly engine: Engine;
  private readonly link: Link;
  private readonly inbox: Inbox;
  private readonly forgetDrafts: () => void;
  /** The message in the open room that the address names. */
  private wanted: number | undefined;
  private typingSentAt = 0;

  constructor(readonly user: string) {
    this.rest = new Rest(user);
    this.history = new History(this.rest);
    this.inbox = new Inbox(
      this.rest,
      (entries) => this.add(entries),
      () => this.listed(),
    );
    const drafts = new Drafts(user);
    this.outgoing = new Outgoing(drafts, () => this.rooms.value);
    this.engine = new Engine({ hello: { user, client: "web/0.1" } }, { outbox: this.outgoing.due() });
    this.link = new Link(this.engine, (effect) => this.take(effect));
    this.outgoing.sender = {
      submit: (act) => this.link.step({ type: "submit", act }),
      forget: (id) => this.engine.forget(id),
      position: (room) => this.engine.position(room) ?? 0,
    };
    this.forgetDrafts = drafts.onRemoved((id) => this.outgoing.settledElsewhere(id));
    this.link.step({ type: "start" });
  }

  stop(): void {
    this.inbox.stop();
    this.forgetDrafts();
    this.link.stop();
  }

  /** Shows a room, joining or making it when needed. */
  async open(id: string, seq?: number): Promise<void> {
    const entering = this.currentId.value !== id || !this.rooms.value.get(id)?.opened;
    if (this.currentId.value !== id) this.putAside();
    this.currentId.value = id;
    this.wanted = seq;
    this.jump.value = null;
    this.trouble.value = null;
    const room = this.rooms.value.get(id) ?? (this.ready.value ? await this.enter(id) : null);
    if (!room || this.currentId.value !== id) return;
    if (entering) room.newAfter.value = room.unread.value > 0 ? room.readTo : null;
    if (!room.opened) {
      room.opened = true;
      void this.history.members(room);
    }
    if (seq !== undefined) await this.jumpTo(room, seq);
    else if (room.timeline.messages.length === 0) await this.history.latest(room);
  }

  close(): void {
    this.putAside();
    this.currentId.value = null;
  }

  /** Joins the public room of this id, or makes it. Throws a RestError that can be shown. */
  async openOrCreate(id: string, name: string): Promise<void> {
    if (!this.rooms.value.has(id)) this.addNew(await enterRoom(this.rest, id, name));
  }

  async openDirect(user: string): Promise<string> {
    const info = await this.rest.direct(user);
    this.addNew(info);
    return info.id;
  }

  async leave(room: Room): Promise<void> {
    await this.rest.leave(room.id);
    this.forget(room.id, null);
  }

  send(room: Room, text: string, replyTo?: number): void {
    const id = this.outgoing.newId();
    const reply = replyTo === undefined ? {} : { reply_to: replyTo };
    this.outgoing.submit({ type: "send", id, room: room.id, text, ...reply });
    this.typingSentAt = 0;
    room.wrote.value += 1;
    room.newAfter.value = null;
  }
  edit(room: Room, seq: number, text: string): void {
    this.outgoing.submit({ type: "edit", id: this.outgoing.newId(), room: room.id, seq, text });
  }
  delete(room: Room, seq: number): void {
    this.outgoing.submit({ type: "delete", id: this.outgoing.newId(), room: room.id, seq });
  }
  react(room: Room, seq: number, emoji: string, on: boolean): void {
    this.outgoing.submit({ type: "react", id: this.outgoing.newId(), room: room.id, seq, emoji, on });
  }

  typing(room: Room, on: boolean): void {
    const now = Date.now();
    // Also when the clock was set back.
    if (on && Math.abs(now - this.typingSentAt) < TYPING_SENT_EVERY_MS) return;
    if (!on && this.typingSentAt === 0) return;
    this.typingSentAt = on ? now : 0;
    this.link.step({ type: "typing", room: room.id, on });
  }

  /** The person has the end of the room in front of them. */
  markRead(room: Room): void {
    const seq = room.timeline.messages.at(-1)?.seq ?? 0;
    if (seq > room.readTo) this.link.step({ type: "read", room: room.id, seq });
    if (seq > 0) room.wasRead(seq);
  }

  /** Reads again what could not be read. */
  async loadAgain(room: Room): Promise<void> {
    const failed = room.failedToLoad.value;
    if (failed.has("latest") && this.wanted !== undefined) await this.jumpTo(room, this.wanted);
    else if (failed.has("latest")) await this.history.latest(room);
    if (failed.has("older")) await this.history.older(room);
    if (failed.has("newer")) await this.history.newer(room);
  }

  private async jumpTo(room: Room, seq: number): Promise<void> {
    if (!room.timeline.find(seq)) await this.history.around(room, seq);
    // Meanwhile the person may have gone elsewhere.
    if (this.currentId.value === room.id && this.wanted === seq)
      this.jump.value = { room: room.id, seq, at: Date.now() };
  }

  /** Keeps little of the room that was open: the newest messages, or nothing if it was left in mid-history. */
  private putAside(): void {
    const room = this.current.value;
    if (!room) return;
    if (room.timeline.atEnd) room.timeline.trim(KEPT_ASIDE);
    else room.timeline.clear();
    room.changed();
  }

  private async enter(id: string): Promise<Room | null> {
    try {
      await this.openOrCreate(id, id);
      return this.rooms.value.get(id) ?? null;
    } catch (e) {
      if (this.currentId.value === id)
        this.trouble.value = `#${id} cannot be opened. ${e instanceof Error ? e.message : ""}`;
      return null;
    }
  }

  private take(effect: Effect): void {
    switch (effect.type) {
      case "status":
        this.status.value = effect.state;
        return;
      case "deliver":
        this.apply(effect.event);
        return;
      case "signal":
        this.signal(effect.frame);
        return;
      case "outbox":
        this.outgoing.fares(effect.id, effect);
        return;
      case "reset_room": {
        const room = this.rooms.value.get(effect.room);
        if (!room) return;
        room.reset();
        if (this.currentId.value === room.id) void this.history.latest(room);
        return;
      }
      case "room_closed":
        // The notice of a removal does not tell whether the person left by themselves.
        this.forget(effect.room, effect.reason === "deleted" ? LOST.deleted : NO_LONGER_IN);
        return;
    }
  }

  private apply(event: LogEvent): void {
    const room = this.rooms.value.get(event.room);
    if (!room) return;
    room.apply(event);
    const here = room.id === this.currentId.value;
    if (!here) room.timeline.trim(KEPT_ASIDE);
    if (here && event.kind === "message" && event.from !== this.user && room.isNews(event))
      this.heard.value = `${event.from}: ${event.text}`;
    const deleted = event.kind === "room" && event.change === "deleted";
    // While catching up, a later event may tell that the person is back.
    const gone = deleted ? "deleted" : event.seq >= room.head ? room.gone : null;
    if (gone) this.forget(room.id, LOST[gone]);
  }

  private signal(frame: ServerFrame): void {
    switch (frame.type) {
      case "welcome":
        this.textBytes = frame.limits.text_bytes ?? this.textBytes;
        this.outgoing.adopt();
        void this.inbox.read();
        return;
      case "subscribed": {
        const room = this.rooms.value.get(frame.room);
        room?.subscribed(frame.head, frame.members, frame.read);
        this.around.listed(room, frame.online ?? []);
        return;
      }
      case "receipt":
        this.rooms.value.get(frame.room)?.receipt(frame.user, frame.received, frame.read);
        return;
      case "presence":
        this.around.changed(frame.user, frame.status);
        return;
      case "typing": {
        const room = this.rooms.value.get(frame.room);
        if (room) this.around.typed(room, frame.user, frame.on);
        return;
      }
      case "notice":
        // For a removed or deleted room the engine says `room_closed` as well.
        if (frame.kind === "room_added") void this.inbox.read();
        return;
    }
  }

  /** The list of rooms is complete. */
  private listed(): void {
    const first = !this.ready.value;
    this.ready.value = true;
    const id = this.currentId.value;
    if (!id) return;
    const room = this.rooms.value.get(id);
    if (first || (!room && this.trouble.value)) void this.open(id, this.wanted);
    else if (room) void this.loadAgain(room);
  }

  private addNew(info: RoomInfo): void {
    this.add([{ room: info, last: null, unread: 0, read: info.head, received: info.head }]);
  }

  /** Rooms that came while we were away are added, the others go on from their position. */
  private add(entries: readonly InboxEntry[]): void {
    const fresh = entries.filter((e) => !this.rooms.value.has(e.room.id));
    if (fresh.length === 0) return;
    const added = fresh.map((entry) => new Room(entry.room.id, entry, this.user));
    this.rooms.value = new Map([...this.rooms.value, ...added.map((room) => [room.id, room] as const)]);
    for (const room of added) this.outgoing.entered(room);
    this.link.step({
      type: "subscribe",
      rooms: fresh.map((entry) => ({ room: entry.room.id, after: startOf(entry) })),
    });
  }

  /** The room is no longer this person's. `why` is told if they have it open. */
  private forget(id: string, why: string | null | undefined): void {
    this.link.step({ type: "unsubscribe", rooms: [id] });
    const rooms = new Map(this.rooms.value);
    const room = rooms.get(id);
    if (!rooms.delete(id)) return;
    this.rooms.value = rooms;
    this.outgoing.left(id);
    if (this.currentId.value !== id) return;
    this.currentId.value = null;
    this.trouble.value = why ? `${why} ${room?.title.value}.` : null;
  }
}

/** Where to read on: what was missed in a short absence is read again, so that its senders learn that it arrived. */
function startOf({ room, received }: InboxEntry): number {
  return room.head - received <= CATCH_UP_MAX ? Math.min(received, room.head) : room.head;
}

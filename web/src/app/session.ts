/** One signed-in person in this tab: the engine, its link, the HTTP API, and what the page shows of them. */
import { computed, signal } from "@preact/signals";
import type { Effect, OutboxState, State } from "../engine/effect";
import { Engine } from "../engine/engine";
import type { Act, LogEvent, PresenceStatus, ServerFrame } from "../engine/frames";
import { uuidV7 } from "../engine/ids";
import { Drafts } from "../net/drafts";
import { Link } from "../net/link";
import { type InboxEntry, Rest, RestError, type RoomInfo } from "../net/rest";
import { Room } from "./room";

const PAGE = 100;
const OLDER_PAGE = 200;
const CATCH_UP_MAX = 200;
const ONLINE_LISTED_MAX = 200;
const TYPING_SHOWN_MS = 6_000;
const TYPING_SENT_EVERY_MS = 3_000;

export class Session {
  readonly rest: Rest;
  readonly status = signal<State["state"]>("connecting");
  /** The inbox was read at least once. */
  readonly ready = signal(false);
  readonly rooms = signal<ReadonlyMap<string, Room>>(new Map());
  readonly currentId = signal<string | null>(null);
  readonly current = computed(() => this.rooms.value.get(this.currentId.value ?? "") ?? null);
  readonly presence = signal<ReadonlyMap<string, PresenceStatus>>(new Map());
  /** The message to scroll to, once; `at` tells two jumps to the same message apart. */
  readonly jump = signal<{ room: string; seq: number; at: number } | null>(null);
  /** What went wrong and is worth a line on the screen. */
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
  private readonly drafts: Drafts;
  /** What is not known to be in the log, also for rooms that are not in the list yet. */
  private readonly unsettled = new Map<string, { act: Act; failure?: { code: string; message: string } }>();
  private readonly typingTimers = new Map<string, ReturnType<typeof setTimeout>>();
  private inboxTimer: ReturnType<typeof setTimeout> | undefined;
  /** The message in the open room that the address names. */
  private wanted: number | undefined;
  private lastId = 0;
  private typingSentAt = 0;
  private stopped = false;

  constructor(readonly user: string) {
    this.rest = new Rest(user);
    this.drafts = new Drafts(user);
    for (const act of this.drafts.load()) this.unsettled.set(act.id, { act });
    this.engine = new Engine(
      { hello: { user, client: "web/0.1" } },
      { outbox: [...this.unsettled.values()].map((u) => u.act) },
    );
    this.link = new Link(this.engine, (effect) => this.take(effect));
    this.drafts.onRemoved((id) => this.settledElsewhere(id));
    this.link.step({ type: "start" });
  }

  stop(): void {
    this.stopped = true;
    clearTimeout(this.inboxTimer);
    this.link.stop();
  }

  /** Shows a room, joining or making it when needed. */
  async open(id: string, seq?: number): Promise<void> {
    const entering = this.currentId.value !== id || !this.rooms.value.get(id)?.opened;
    this.currentId.value = id;
    this.wanted = seq;
    const room = this.rooms.value.get(id) ?? (this.ready.value ? await this.enter(id) : null);
    if (!room || this.currentId.value !== id) return;
    if (entering) room.newAfter.value = room.unread.value > 0 ? room.readTo : null;
    if (!room.opened) {
      room.opened = true;
      void this.loadMembers(room);
    }
    if (seq !== undefined) await this.jumpTo(room, seq);
    else if (room.timeline.messages.length === 0) await this.loadLatest(room);
  }

  close(): void {
    this.currentId.value = null;
  }

  /** Joins the public room of this id, or makes it. Throws a RestError that can be shown. */
  async openOrCreate(id: string, name: string): Promise<void> {
    if (!this.rooms.value.has(id)) {
      const info = await this.rest.join(id).then(
        () => this.rest.room(id),
        (e) => {
          if (e instanceof RestError && e.code === "not_found")
            return this.rest.createRoom({ id, kind: "public", name });
          throw e;
        },
      );
      this.addNew(info);
    }
  }

  async openDirect(user: string): Promise<string> {
    const info = await this.rest.direct(user);
    this.addNew(info);
    return info.id;
  }

  async leave(room: Room): Promise<void> {
    await this.rest.leave(room.id);
    this.forget(room.id);
  }

  send(room: Room, text: string, replyTo?: number): void {
    this.submit({
      type: "send",
      id: this.newId(),
      room: room.id,
      text,
      ...(replyTo === undefined ? {} : { reply_to: replyTo }),
    });
    this.typingSentAt = 0;
    room.wrote.value += 1;
    room.newAfter.value = null;
  }
  edit(room: Room, seq: number, text: string): void {
    this.submit({ type: "edit", id: this.newId(), room: room.id, seq, text });
  }
  delete(room: Room, seq: number): void {
    this.submit({ type: "delete", id: this.newId(), room: room.id, seq });
  }
  react(room: Room, seq: number, emoji: string, on: boolean): void {
    this.submit({ type: "react", id: this.newId(), room: room.id, seq, emoji, on });
  }
  retry(room: Room, id: string): void {
    const act = room.actOf(id);
    if (!act) return;
    room.retried(id);
    this.unsettled.set(id, { act });
    this.link.step({ type: "submit", act });
  }
  discard(room: Room, id: string): void {
    this.settle(id);
    room.dropPending(id);
  }

  typing(room: Room, on: boolean): void {
    const now = Date.now();
    if (on && now - this.typingSentAt < TYPING_SENT_EVERY_MS) return;
    if (!on && this.typingSentAt === 0) return;
    this.typingSentAt = on ? now : 0;
    this.link.step({ type: "typing", room: room.id, on });
  }

  /** The person has the end of the room in front of them. */
  markRead(room: Room): void {
    const position = this.engine.position(room.id);
    const seq = room.timeline.messages.at(-1)?.seq ?? 0;
    if (position === null || seq <= room.readTo) {
      if (room.unread.value !== 0 && seq > 0) room.unread.value = 0;
      return;
    }
    room.readTo = seq;
    room.unread.value = 0;
    this.link.step({ type: "read", room: room.id, seq });
  }

  async loadLatest(room: Room): Promise<void> {
    await this.load(room, "latest", async () => {
      const reading = room.timeline.reading();
      const page = await this.page(room, reading, { limit: PAGE });
      room.timeline.show(reading, page.items, { atStart: page.next === null, atEnd: true });
    });
  }

  async loadOlder(room: Room): Promise<void> {
    const first = room.timeline.messages[0]?.seq;
    if (room.timeline.atStart || first === undefined) return;
    await this.load(room, "older", async () => {
      const reading = room.timeline.reading();
      const page = await this.page(room, reading, { before: first, limit: OLDER_PAGE });
      room.timeline.addOlder(reading, page.items, page.next === null || page.items.length === 0);
    });
  }

  async loadNewer(room: Room): Promise<void> {
    const last = room.timeline.messages.at(-1)?.seq;
    if (room.timeline.atEnd || last === undefined) return;
    await this.load(room, "newer", async () => {
      const reading = room.timeline.reading();
      const page = await this.page(room, reading, { after: last, limit: OLDER_PAGE });
      room.timeline.addNewer(reading, page.items, page.next === null || page.items.length === 0);
    });
  }

  async loadMembers(room: Room): Promise<void> {
    try {
      const page = await this.rest.members(room.id);
      room.setMembers(page.items);
    } catch {
      // The list is an extra; receipts and presence still arrive.
    }
  }

  private async jumpTo(room: Room, seq: number): Promise<void> {
    if (!room.timeline.find(seq)) {
      await this.load(room, "latest", async () => {
        const reading = room.timeline.reading();
        const page = await this.page(room, reading, { around: seq, limit: PAGE });
        room.timeline.show(reading, page.items, { atStart: false, atEnd: false });
      });
    }
    this.jump.value = { room: room.id, seq, at: Date.now() };
  }

  private async page(room: Room, reading: { since: number }, query: Parameters<Rest["messages"]>[1]) {
    try {
      return await this.rest.messages(room.id, query);
    } catch (e) {
      room.timeline.abandon(reading);
      throw e;
    }
  }

  private async load(room: Room, what: "latest" | "older" | "newer", work: () => Promise<void>) {
    if (room.loading.value !== "no" && room.loading.value !== "failed") return;
    room.loading.value = what;
    try {
      await work();
      room.loading.value = "no";
    } catch {
      room.loading.value = "failed";
    }
    room.changed();
  }

  private async enter(id: string): Promise<Room | null> {
    try {
      await this.openOrCreate(id, id);
      return this.rooms.value.get(id) ?? null;
    } catch (e) {
      this.trouble.value = `#${id} cannot be opened. ${e instanceof Error ? e.message : ""}`;
      return null;
    }
  }

  private submit(act: Act & { room: string }): void {
    this.drafts.save(act);
    this.unsettled.set(act.id, { act });
    this.rooms.value.get(act.room)?.submitted(act, new Date().toISOString());
    this.link.step({ type: "submit", act });
  }

  /** Sends what a tab left behind that was closed meanwhile. One that is still open sends it too, which is harmless. */
  private adoptDrafts(): void {
    for (const act of this.drafts.load()) {
      if (this.unsettled.has(act.id)) continue;
      this.unsettled.set(act.id, { act });
      this.rooms.value.get(act.room ?? "")?.submitted(act, timeOf(act.id));
      this.link.step({ type: "submit", act });
    }
  }

  /** Nothing is left to be done about this act. */
  private settle(id: string): void {
    this.unsettled.delete(id);
    this.drafts.remove(id);
    this.engine.forget(id);
  }

  /** Later ids sort after earlier ones, also within one millisecond. */
  private newId(): string {
    this.lastId = Math.max(Date.now(), this.lastId + 1);
    return uuidV7(this.lastId, crypto.getRandomValues(new Uint8Array(10)));
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
        this.outbox(effect.id, effect);
        return;
      case "reset_room": {
        const room = this.rooms.value.get(effect.room);
        if (!room) return;
        room.reset();
        if (this.currentId.value === room.id) void this.loadLatest(room);
        return;
      }
      case "room_closed":
        this.forget(effect.room);
        return;
      default:
        return;
    }
  }

  /** How an act fares. Its room may not be in the list; then only what is kept changes. */
  private outbox(id: string, state: OutboxState): void {
    const kept = this.unsettled.get(id);
    const room = this.rooms.value.get(kept?.act.room ?? "");
    if (state.state === "sent") {
      this.settle(id);
      room?.acked(id, state.at, state.seq <= (this.engine.position(state.room) ?? 0));
    } else if (state.state === "failed" && kept) {
      const { code, message } = state;
      kept.failure = { code, message };
      room?.failed(id, code, message);
    }
  }

  private apply(event: LogEvent): void {
    const room = this.rooms.value.get(event.room);
    if (!room) return;
    room.apply(event);
    if (event.kind === "message") {
      if (event.from === this.user) {
        room.readTo = Math.max(room.readTo, event.seq);
      } else if (room.isNews(event)) {
        room.unread.value += 1;
        if (room.id === this.currentId.value) this.heard.value = `${event.from}: ${event.text}`;
      }
    }
    if (event.kind === "member" && event.user === this.user && event.change === "removed")
      this.forget(room.id);
    if (event.kind === "room" && event.change === "deleted") this.forget(room.id);
  }

  private signal(frame: ServerFrame): void {
    switch (frame.type) {
      case "welcome":
        this.textBytes = frame.limits.text_bytes ?? this.textBytes;
        this.adoptDrafts();
        void this.loadInbox();
        return;
      case "subscribed":
        this.online(frame.room, frame.online ?? [], frame.members);
        return;
      case "receipt": {
        const room = this.rooms.value.get(frame.room);
        room?.receipt(frame.user, frame.received, frame.read);
        // Read in another tab or on another device.
        if (room && frame.user === this.user && frame.read >= (room.last.value?.seq ?? 0))
          room.unread.value = 0;
        return;
      }
      case "presence":
        this.presence.value = new Map(this.presence.value).set(frame.user, frame.status);
        return;
      case "typing":
        this.typed(frame.room, frame.user, frame.on);
        return;
      case "notice":
        if (frame.kind === "room_added") void this.loadInbox();
        if (frame.room && (frame.kind === "room_removed" || frame.kind === "room_deleted"))
          this.forget(frame.room);
        return;
    }
  }

  private typed(id: string, user: string, on: boolean): void {
    const room = this.rooms.value.get(id);
    if (!room) return;
    const key = `${id} ${user}`;
    clearTimeout(this.typingTimers.get(key));
    if (!on) return room.stopTyping(user);
    room.startTyping(user);
    room.meet([user]);
    this.typingTimers.set(
      key,
      setTimeout(() => room.stopTyping(user), TYPING_SHOWN_MS),
    );
  }

  private online(id: string, users: readonly string[], members: number | undefined): void {
    const room = this.rooms.value.get(id);
    const presence = new Map(this.presence.value);
    // The list is complete unless it is full; who left while we were away is no longer in it.
    if (room && users.length < ONLINE_LISTED_MAX)
      for (const user of room.people.value) if (presence.has(user)) presence.set(user, "offline");
    for (const user of users) presence.set(user, "online");
    this.presence.value = presence;
    if (!room) return;
    room.meet(users);
    if (members !== undefined) room.info.value = { ...room.info.value, members };
  }

  /** Reads the list of rooms; rooms that came while we were away are added, the others go on from their position. */
  private async loadInbox(): Promise<void> {
    clearTimeout(this.inboxTimer);
    try {
      let cursor: string | undefined;
      do {
        const page: { items: InboxEntry[]; next: string | null } = await this.rest.inbox(cursor);
        this.add(page.items);
        cursor = page.next ?? undefined;
      } while (cursor);
      const first = !this.ready.value;
      this.ready.value = true;
      const id = this.currentId.value;
      if (id && (first || this.rooms.value.get(id)?.loading.value === "failed"))
        void this.open(id, this.wanted);
    } catch {
      if (!this.stopped) this.inboxTimer = setTimeout(() => void this.loadInbox(), 2_000);
    }
  }

  private addNew(info: RoomInfo): void {
    this.add([{ room: info, last: null, unread: 0, read: info.head, received: info.head }]);
  }

  private add(entries: readonly InboxEntry[]): void {
    const fresh = entries.filter((e) => !this.rooms.value.has(e.room.id));
    if (fresh.length === 0) return;
    const rooms = new Map(this.rooms.value);
    for (const entry of fresh) {
      const room = new Room(entry.room.id, entry, this.user);
      for (const { act, failure } of this.unsettled.values()) {
        if (act.room !== room.id) continue;
        room.submitted(act, timeOf(act.id));
        if (failure) room.failed(act.id, failure.code, failure.message);
      }
      rooms.set(room.id, room);
    }
    this.rooms.value = rooms;
    this.link.step({
      type: "subscribe",
      rooms: fresh.map((entry) => ({ room: entry.room.id, after: startOf(entry) })),
    });
  }

  private forget(id: string): void {
    this.link.step({ type: "unsubscribe", rooms: [id] });
    const rooms = new Map(this.rooms.value);
    if (!rooms.delete(id)) return;
    this.rooms.value = rooms;
    if (this.currentId.value === id) this.currentId.value = null;
  }

  /** Another tab got the answer for this act, or its user gave it up. */
  private settledElsewhere(id: string): void {
    const kept = this.unsettled.get(id);
    if (!kept) return;
    this.settle(id);
    const room = this.rooms.value.get(kept.act.room ?? "");
    if (kept.failure) room?.dropPending(id);
    // Our own connection brings the event; until then the message stays visible.
    else room?.acked(id, timeOf(id), false);
  }
}

/** Where to read on: what was missed in a short absence is read again, so that its senders learn that it arrived. */
function startOf({ room, received }: InboxEntry): number {
  return room.head - received <= CATCH_UP_MAX ? Math.min(received, room.head) : room.head;
}

/** When a message was written: the first 48 bits of its id. */
function timeOf(id: string): string {
  const ms = Number.parseInt(id.replace(/-/g, "").slice(0, 12), 16);
  return new Date(Number.isFinite(ms) ? ms : Date.now()).toISOString();
}

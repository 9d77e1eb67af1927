import { computed, signal } from "@preact/signals";
import type { Act, LogEvent } from "../engine/frames";
import type { InboxEntry, Member, RoomInfo } from "../net/rest";
import { tab } from "../net/storage";
import { fromEvent, type Message, react, Timeline } from "../timeline/timeline";

/** Something this person did that is not yet seen in the log. */
export interface Pending {
  readonly act: Act;
  readonly at: string;
  readonly state: "sending" | "sent" | "failed";
  readonly failure?: { code: string; message: string };
}

/** A part of the history that is being read. */
export type Part = "latest" | "older" | "newer";

/** One room in the list, and, once opened, its messages. Changes are announced through signals. */
export class Room {
  readonly info;
  readonly unread;
  readonly last;
  readonly timeline = new Timeline();
  /** Rises whenever the messages or the pending acts change. */
  readonly version = signal(0);
  readonly loading = signal<Part | null>(null);
  /** What could not be read the last time it was tried. */
  readonly failedToLoad = signal<ReadonlySet<Part>>(new Set());
  readonly members = signal<readonly Member[]>([]);
  readonly people = signal<ReadonlySet<string>>(new Set());
  readonly typing = signal<readonly string[]>([]);
  /** Of everybody else, the furthest that anyone received and read. */
  readonly deliveredTo = signal(0);
  readonly seenTo = signal(0);
  /** Rises when this person sends a message here, which brings the end into view. */
  readonly wrote = signal(0);
  /** Where the "new" line stands: the last message that was read when the room was opened. */
  readonly newAfter = signal<number | null>(null);
  readonly title = computed(() => {
    const info = this.info.value;
    return info.kind === "direct" ? (info.with ?? info.name) : info.name;
  });
  readTo: number;
  /** The end of the log when its members were counted last; changes up to here are counted already. */
  head: number;
  opened = false;
  /** How this person ceased to be a member. */
  gone: "left" | "removed" | null = null;
  /** The end of the log when the inbox was read, which counts what is unread up to there. */
  private base: number;
  /** Unread messages after that, for reading elsewhere may end between them. */
  private news: number[] = [];
  private readonly draftKey: string;
  private readonly pending = new Map<string, Pending>();
  private readonly cursors = new Map<string, { received: number; read: number }>();

  constructor(
    readonly id: string,
    entry: InboxEntry,
    private readonly me: string,
  ) {
    this.info = signal<RoomInfo>(entry.room);
    this.unread = signal(entry.unread);
    this.last = signal<Message | null>(entry.last);
    this.readTo = entry.read;
    this.draftKey = `darda:draft:${me}:${id}`;
    this.base = this.head = entry.room.head;
    if (entry.room.with) this.meet([entry.room.with]);
  }

  /** What is written and not sent; it outlives a reload of the tab. */
  get draft(): string {
    return tab.get(this.draftKey) ?? "";
  }
  set draft(text: string) {
    if (text) tab.set(this.draftKey, text);
    else tab.remove(this.draftKey);
  }

  /** Takes the room's next event. */
  apply(event: LogEvent): void {
    const before = this.timeline.version;
    this.timeline.apply(event);
    if (this.isNews(event)) {
      if (event.kind === "message") this.said(event);
      if (event.kind === "edit") this.lastChanged(event.target, { text: event.text, edited_at: event.at });
      if (event.kind === "delete")
        this.lastChanged(event.target, { text: null, deleted: true, reactions: [] });
      if (event.kind === "member") this.memberChanged(event);
      if (event.kind === "room") this.info.value = changedInfo(this.info.value, event);
      if (event.from) this.meet([event.from]);
    }
    if (event.kind === "message" && event.from) this.stopTyping(event.from);
    const settled = "id" in event && this.pending.delete(event.id);
    if (settled || this.timeline.version !== before) this.changed();
  }

  private said(event: Extract<LogEvent, { kind: "message" }>): void {
    this.last.value = fromEvent(event);
    if (event.from === this.me || event.seq <= this.readTo) return;
    this.news.push(event.seq);
    this.unread.value += 1;
  }

  private lastChanged(target: number, change: Partial<Message>): void {
    const last = this.last.value;
    if (last?.seq === target && !last.deleted) this.last.value = { ...last, ...change };
  }

  /** This person has read up to here, in this tab or elsewhere. */
  wasRead(seq: number): void {
    this.readTo = Math.max(this.readTo, seq);
    // Of what the inbox counted nobody knows which are read, until all are.
    if (this.readTo < this.base && this.readTo < (this.last.value?.seq ?? 0)) return;
    this.news = this.news.filter((unread) => unread > this.readTo);
    this.unread.value = this.news.length;
  }

  /** The subscription begins: the server tells what it knows. */
  subscribed(head: number, members: number | undefined, read: number | undefined): void {
    this.head = Math.max(this.head, head);
    if (members !== undefined) this.info.value = { ...this.info.value, members };
    if (read !== undefined) this.wasRead(read);
  }

  /** Whether this happened after the inbox was read, which already counts everything before. */
  isNews(event: LogEvent): boolean {
    return event.seq > this.base;
  }

  changed(): void {
    this.version.value += 1;
  }

  submitted(act: Act, at: string): void {
    this.pending.set(act.id, { act, at, state: "sending" });
    this.changed();
  }

  /** Acked: the pending entry stays on the screen until its event arrives, unless that has been applied already. */
  acked(id: string, at: string, applied: boolean): void {
    const entry = this.pending.get(id);
    if (!entry) return;
    if (applied || (entry.act.type === "send" && !this.timeline.atEnd)) this.pending.delete(id);
    else this.pending.set(id, { ...entry, at, state: "sent" });
    this.changed();
  }

  failed(id: string, code: string, message: string): void {
    const entry = this.pending.get(id);
    if (entry) this.pending.set(id, { ...entry, state: "failed", failure: { code, message } });
    this.changed();
  }

  retried(id: string): void {
    const entry = this.pending.get(id);
    if (entry) this.pending.set(id, { act: entry.act, at: entry.at, state: "sending" });
    this.changed();
  }

  actOf(id: string): Act | undefined {
    return this.pending.get(id)?.act;
  }

  /** The room's log was lost: nothing that was known of it holds. */
  reset(): void {
    this.timeline.clear();
    this.cursors.clear();
    this.base = this.head = this.readTo = this.deliveredTo.value = this.seenTo.value = 0;
    this.news = [];
    this.last.value = null;
    this.unread.value = 0;
    this.newAfter.value = null;
    this.changed();
  }

  dropPending(id: string): void {
    if (this.pending.delete(id)) this.changed();
  }

  /** Messages written but not yet in the log, in the order they were written. */
  unsent(): Pending[] {
    return [...this.pending.values()].filter((p) => p.act.type === "send");
  }

  /** Edits, deletions and reactions not yet in the log, or refused. */
  acts(): Pending[] {
    return [...this.pending.values()].filter((p) => p.act.type !== "send");
  }

  /** The message as this person already changed it. */
  withActs(message: Message, acts: readonly Pending[]): Message {
    let shown = message;
    for (const { act, state } of acts) {
      if (act.type === "send" || act.seq !== message.seq || state === "failed") continue;
      if (act.type === "edit") shown = { ...shown, text: act.text, edited_at: shown.at };
      else if (act.type === "delete") shown = { ...shown, text: null, deleted: true, reactions: [] };
      else shown = { ...shown, reactions: react(shown.reactions, act.emoji, this.me, act.on) };
    }
    return shown;
  }

  receipt(user: string, received: number, read: number): void {
    if (user === this.me) {
      this.wasRead(read);
      return;
    }
    const old = this.cursors.get(user);
    this.cursors.set(user, {
      received: Math.max(received, old?.received ?? 0),
      read: Math.max(read, old?.read ?? 0),
    });
    this.deliveredTo.value = Math.max(this.deliveredTo.value, received, read);
    this.seenTo.value = Math.max(this.seenTo.value, read);
  }

  /** Who, other than me, has read up to here. */
  seenBy(seq: number): string[] {
    return [...this.cursors].filter(([, c]) => c.read >= seq).map(([user]) => user);
  }

  setMembers(members: readonly Member[]): void {
    this.members.value = members;
    this.meet(members.map((m) => m.user));
    for (const m of members) this.receipt(m.user, m.received, m.read);
  }

  meet(users: readonly string[]): void {
    const known = this.people.value;
    if (users.some((u) => !known.has(u))) this.people.value = new Set([...known, ...users]);
  }

  startTyping(user: string): void {
    if (user !== this.me && !this.typing.value.includes(user))
      this.typing.value = [...this.typing.value, user];
  }

  stopTyping(user: string): void {
    if (this.typing.value.includes(user)) this.typing.value = this.typing.value.filter((u) => u !== user);
  }

  private memberChanged(event: Extract<LogEvent, { kind: "member" }>): void {
    const gone = event.change === "left" || event.change === "removed" ? event.change : null;
    if (event.user === this.me) this.gone = gone;
    const others = this.members.value.filter((m) => m.user !== event.user);
    const known = this.members.value.find((m) => m.user === event.user);
    if (gone) {
      this.members.value = others;
      this.people.value = new Set([...this.people.value].filter((u) => u !== event.user));
    } else {
      this.meet([event.user]);
      const role = event.role ?? known?.role ?? "member";
      this.members.value = [...others, { received: 0, read: 0, ...known, user: event.user, role }];
    }
    const step = gone ? -1 : event.change === "joined" ? 1 : 0;
    if (step !== 0 && event.seq > this.head)
      this.info.value = { ...this.info.value, members: this.info.value.members + step };
  }
}

function changedInfo(info: RoomInfo, event: Extract<LogEvent, { kind: "room" }>): RoomInfo {
  return {
    ...info,
    ...(event.name === undefined ? {} : { name: event.name }),
    ...(event.topic === undefined ? {} : { topic: event.topic }),
  };
}

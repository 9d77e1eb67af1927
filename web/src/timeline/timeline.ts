/**
 * The messages of one room as a person sees them: a contiguous stretch of the room, read in pages from the history, with
 * the log's events applied as they come. Holds no element of the page and does no I/O.
 */
import type { LogEvent } from "../engine/frames";

export interface Reaction {
  emoji: string;
  users: readonly string[];
}

/** Never changed in place: another content is another object, so a row can tell cheaply that nothing happened. */
export interface Message {
  readonly room: string;
  readonly seq: number;
  readonly id: string;
  readonly from: string;
  readonly at: string;
  /** null when deleted. */
  readonly text: string | null;
  readonly reply_to?: number;
  readonly edited_at?: string;
  readonly deleted: boolean;
  readonly reactions: readonly Reaction[];
}

/** A page of history being read. Events applied meanwhile are applied to it again when it arrives. */
export interface Reading {
  readonly since: number;
}

export class Timeline {
  /** Ascending by seq, with nothing missing between the first and the last. */
  messages: readonly Message[] = [];
  /** The first message of the room is loaded. */
  atStart = false;
  /** The newest message is loaded, and new ones are appended as they come. */
  atEnd = false;
  /** Rises with every change. */
  version = 0;

  private recent: LogEvent[] = [];
  private readings = new Set<Reading>();
  private applied = 0;

  /** Call before asking for a page, and hand the result to `show`, `addOlder` or `addNewer`. */
  reading(): Reading {
    const reading = { since: this.applied };
    this.readings.add(reading);
    return reading;
  }

  /** The page will not come. */
  abandon(reading: Reading): void {
    this.readings.delete(reading);
    this.forgetRecent();
  }

  /** Shows this stretch instead of what was shown. Like the next two it does nothing when all was cleared meanwhile. */
  show(reading: Reading, page: readonly Message[], ends: { atStart: boolean; atEnd: boolean }): void {
    if (!this.readings.has(reading)) return;
    this.messages = [...page].sort((a, b) => a.seq - b.seq);
    this.atStart = ends.atStart;
    this.atEnd = ends.atEnd;
    this.settle(reading);
  }

  addOlder(reading: Reading, page: readonly Message[], atStart: boolean): void {
    if (!this.readings.has(reading)) return;
    const first = this.messages[0]?.seq ?? Number.POSITIVE_INFINITY;
    this.messages = [...page.filter((m) => m.seq < first), ...this.messages];
    this.atStart = atStart;
    this.settle(reading);
  }

  addNewer(reading: Reading, page: readonly Message[], atEnd: boolean): void {
    if (!this.readings.has(reading)) return;
    const last = this.messages.at(-1)?.seq ?? 0;
    this.messages = [...this.messages, ...page.filter((m) => m.seq > last)];
    this.atEnd = atEnd;
    this.settle(reading);
  }

  /** Applies the room's next event. Events come in order, each once; a page may already contain their effect. */
  apply(event: LogEvent): void {
    this.applied += 1;
    if (this.readings.size > 0) this.recent.push(event);
    if (this.project(event)) this.version += 1;
  }

  /** Forgets the oldest messages when there are many more than `keep`; they can be read again. */
  trim(keep: number): boolean {
    // Not one by one: what is trimmed has to be drawn anew. And not under a page that is about to be put before them.
    if (!this.atEnd || this.readings.size > 0 || this.messages.length < keep * 1.5) return false;
    this.messages = this.messages.slice(-keep);
    this.atStart = false;
    this.version += 1;
    return true;
  }

  /** Forgets everything, for a room whose log was lost or that nobody looks at. */
  clear(): void {
    this.messages = [];
    this.atStart = this.atEnd = false;
    this.recent = [];
    this.readings.clear();
    this.version += 1;
  }

  find(seq: number): Message | undefined {
    const at = this.indexOf(seq);
    return at < 0 ? undefined : this.messages[at];
  }

  private settle(reading: Reading): void {
    const missed = this.recent.slice(this.recent.length - (this.applied - reading.since));
    for (const event of missed) this.project(event);
    this.abandon(reading);
    this.version += 1;
  }

  private forgetRecent(): void {
    if (this.readings.size === 0) this.recent = [];
  }

  private project(event: LogEvent): boolean {
    switch (event.kind) {
      case "message": {
        const last = this.messages.at(-1)?.seq ?? 0;
        if (!this.atEnd || event.seq <= last) return false;
        this.messages = [...this.messages, fromEvent(event)];
        return true;
      }
      case "edit":
        return this.change(event.target, (m) =>
          m.deleted ? m : { ...m, text: event.text, edited_at: event.at },
        );
      case "delete":
        return this.change(event.target, (m) => ({ ...m, text: null, deleted: true, reactions: [] }));
      case "reaction":
        return this.change(event.target, (m) =>
          m.deleted ? m : { ...m, reactions: react(m.reactions, event.emoji, event.from ?? "", event.on) },
        );
      default:
        return false;
    }
  }

  private change(seq: number, edit: (message: Message) => Message): boolean {
    const at = this.indexOf(seq);
    const message = this.messages[at];
    if (!message) return false;
    const next = edit(message);
    if (next === message) return false;
    this.messages = this.messages.with(at, next);
    return true;
  }

  private indexOf(seq: number): number {
    let low = 0;
    let high = this.messages.length - 1;
    while (low <= high) {
      const mid = (low + high) >> 1;
      const found = this.messages[mid]?.seq ?? 0;
      if (found === seq) return mid;
      if (found < seq) low = mid + 1;
      else high = mid - 1;
    }
    return -1;
  }
}

export function fromEvent(event: Extract<LogEvent, { kind: "message" }>): Message {
  return {
    room: event.room,
    seq: event.seq,
    id: event.id,
    from: event.from ?? "",
    at: event.at,
    text: event.text,
    ...(event.reply_to === undefined ? {} : { reply_to: event.reply_to }),
    deleted: false,
    reactions: [],
  };
}

/** Adds or takes away one person's reaction; doing it twice changes nothing. */
export function react(
  reactions: readonly Reaction[],
  emoji: string,
  user: string,
  on: boolean,
): readonly Reaction[] {
  const rest = (users: readonly string[]) => users.filter((u) => u !== user);
  const known = reactions.some((r) => r.emoji === emoji);
  if (!known) return on ? [...reactions, { emoji, users: [user] }] : reactions;
  return reactions
    .map((r) => (r.emoji !== emoji ? r : { emoji, users: on ? [...rest(r.users), user] : rest(r.users) }))
    .filter((r) => r.users.length > 0);
}

/**
 * Decides everything about staying connected and missing nothing, and does no I/O: it takes what happened and returns what
 * to do. Time and chance are handed in, so a test can replay any history. `net/link.ts` carries the effects out.
 */
import { backoffMs } from "./backoff";
import type { ClientFrame, ErrorCode, Intent, LogEvent, ServerFrame } from "./frames";
import { isRetryable, Outbox } from "./outbox";
import { judge, judgeFetched } from "./position";

export type Input =
  /** A socket is open. */
  | { type: "opened"; conn: number }
  | { type: "closed"; conn: number; code?: number }
  | { type: "frame"; conn: number; frame: ServerFrame }
  /** The time that `wakeAt` named has come. */
  | { type: "wake" }
  /** The network is back: do not wait for the backoff. */
  | { type: "hurry" }
  | { type: "join"; room: string; after?: number }
  | { type: "leave"; room: string }
  | { type: "submit"; intent: Intent }
  | { type: "retry"; id: string }
  | { type: "discard"; id: string }
  | { type: "cursor"; kind: "received" | "read"; room: string; seq: number }
  | { type: "typing"; room: string; on: boolean };

export type Signal = Extract<ServerFrame, { type: "receipt" | "typing" | "presence" | "notice" }>;

export type Effect =
  | { type: "open"; conn: number }
  | { type: "close"; conn: number }
  | { type: "write"; conn: number; frame: ClientFrame }
  /** The next event of a room, in order, each once. */
  | { type: "apply"; event: LogEvent }
  /** The server has less than we do: what is remembered of this room is worthless. */
  | { type: "reset"; room: string; head: number }
  | { type: "subscribed"; frame: Extract<ServerFrame, { type: "subscribed" }> }
  | { type: "lost_room"; room: string; code: ErrorCode; message: string }
  | { type: "signal"; frame: Signal }
  | { type: "welcome"; frame: Extract<ServerFrame, { type: "welcome" }> }
  | { type: "acked"; intent: Intent; seq: number; at: string }
  | { type: "failed"; intent: Intent; code: ErrorCode; message: string }
  | { type: "status"; status: Status };

export type Status = "connecting" | "online" | "waiting" | "refused";

interface Room {
  /** Every event up to here was applied; null until the server named a place to start. */
  position: number | null;
  /** A read of the log that fills a hole. */
  reading: { ref: string; overdueAt: number } | null;
  /** The highest seq known to exist; beyond the position it means there is more to read. */
  known: number;
  /** The connection whose subscription is asked for or in force. */
  conn: number | null;
  subscribeAt: number;
  received: number;
  read: number;
}

const SUBSCRIBE_ROOMS = 200;
const FETCH_EVENTS = 200;
const READ_OVERDUE_MS = 15_000;
const CONNECT_OVERDUE_MS = 10_000;
const CLOSED_UNAUTHENTICATED = 4401;

export class Engine {
  readonly outbox = new Outbox();
  private readonly rooms = new Map<string, Room>();
  private conns = 0;
  /** The welcomed connection. */
  private active: number | null = null;
  /** A connection on its way; after a goaway it exists beside the active one. */
  private opening: { conn: number; overdueAt: number } | null = null;
  private attempt = 0;
  private connectAt: number | null = 0;
  private heartbeatMs = 25_000;
  private heardAt = 0;
  private refs = 0;
  private status: Status = "connecting";
  private out: Effect[] = [];

  constructor(
    private readonly user: string,
    private readonly random: () => number,
    private readonly client = "web/0.1",
  ) {}

  /** Takes one thing that happened and returns what to do about it, in order. */
  step(input: Input, now: number): Effect[] {
    this.out = [];
    this.take(input, now);
    this.advance(now);
    return this.out;
  }

  /** When the engine wants a `wake`, or null. */
  wakeAt(): number | null {
    const times: (number | null)[] = [this.connectAt, this.opening?.overdueAt ?? null];
    if (this.active !== null) {
      times.push(this.outbox.wakeAt());
      if (this.rooms.size > 0) times.push(this.deadAt());
      for (const room of this.rooms.values()) {
        if (room.reading) times.push(room.reading.overdueAt);
        if (room.conn !== this.active) times.push(room.subscribeAt);
      }
    }
    return times.reduce((least, t) => (t !== null && (least === null || t < least) ? t : least), null);
  }

  position(room: string): number | null {
    return this.rooms.get(room)?.position ?? null;
  }

  private take(input: Input, now: number): void {
    switch (input.type) {
      case "opened":
        this.write(input.conn, { type: "hello", user: this.user, client: this.client });
        return;
      case "closed":
        this.closed(input.conn, input.code, now);
        return;
      case "frame":
        if (input.conn !== this.active && input.conn !== this.opening?.conn) return;
        this.heardAt = now;
        this.frame(input.conn, input.frame, now);
        return;
      case "wake":
        return;
      case "hurry":
        if (this.connectAt !== null && this.status !== "refused") this.connectAt = now;
        this.attempt = 0;
        return;
      case "join":
        this.join(input.room, input.after);
        return;
      case "leave":
        if (this.rooms.delete(input.room) && this.active !== null)
          this.write(this.active, { type: "unsubscribe", ref: this.ref(), rooms: [input.room] });
        return;
      case "submit":
        this.outbox.add(input.intent);
        return;
      case "retry":
        this.outbox.retry(input.id);
        return;
      case "discard":
        this.outbox.remove(input.id);
        return;
      case "cursor":
        this.cursor(input.kind, input.room, input.seq);
        return;
      case "typing":
        if (this.active !== null) this.write(this.active, { type: "typing", room: input.room, on: input.on });
        return;
    }
  }

  private frame(conn: number, frame: ServerFrame, now: number): void {
    switch (frame.type) {
      case "welcome":
        this.welcomed(conn, frame);
        return;
      case "subscribed":
        this.subscribed(conn, frame, now);
        return;
      case "event":
        this.event(frame, now);
        return;
      case "events":
        this.page(frame, now);
        return;
      case "ack": {
        const entry = this.outbox.remove(frame.id);
        if (entry) this.emit({ type: "acked", intent: entry.intent, seq: frame.seq, at: frame.at });
        return;
      }
      case "error":
        this.error(frame, now);
        return;
      case "heads":
        for (const [id, head] of Object.entries(frame.rooms)) {
          const room = this.rooms.get(id);
          if (room?.conn === conn) this.notice(id, room, head, now);
        }
        return;
      case "goaway":
        if (conn === this.active && !this.opening) this.connectAt = now + Math.max(0, frame.reconnect_in_ms);
        return;
      case "receipt":
      case "typing":
      case "presence":
      case "notice":
        this.emit({ type: "signal", frame });
        return;
      case "unsubscribed":
        return;
    }
  }

  private welcomed(conn: number, frame: Extract<ServerFrame, { type: "welcome" }>): void {
    if (this.active === conn) return;
    const old = this.active;
    this.active = conn;
    this.opening = null;
    this.connectAt = null;
    this.attempt = 0;
    this.heartbeatMs = frame.heartbeat_secs * 1000;
    this.forgetConnection();
    if (old !== null) this.emit({ type: "close", conn: old });
    this.emit({ type: "welcome", frame });
    this.setStatus("online");
  }

  private subscribed(conn: number, frame: Extract<ServerFrame, { type: "subscribed" }>, now: number): void {
    const room = this.rooms.get(frame.room);
    if (!room || conn !== this.active) return;
    if (room.position === null) {
      room.position = frame.after;
    } else if (frame.head < room.position) {
      room.position = frame.head;
      room.received = room.read = 0;
      this.emit({ type: "reset", room: frame.room, head: frame.head });
    }
    room.known = Math.max(frame.head, room.position);
    this.emit({ type: "subscribed", frame });
    for (const kind of ["received", "read"] as const) {
      if (room[kind] > 0) this.write(conn, { type: kind, room: frame.room, seq: room[kind] });
    }
    // Events follow from `after`; a server that starts later than we asked leaves a hole to read.
    if (frame.after > room.position) this.read(frame.room, room, now);
  }

  private event(event: LogEvent, now: number): void {
    const room = this.rooms.get(event.room);
    if (!room || room.position === null) return;
    switch (judge(room.position, event)) {
      case "apply":
        this.apply(room, event);
        return;
      case "hole":
        room.known = Math.max(room.known, event.seq);
        this.read(event.room, room, now);
        return;
      case "drop":
        return;
    }
  }

  private page(frame: Extract<ServerFrame, { type: "events" }>, now: number): void {
    const room = this.rooms.get(frame.room);
    if (!room || room.position === null || room.reading?.ref !== frame.ref) return;
    room.reading = null;
    const before = room.position;
    for (const event of frame.events) {
      const verdict = judgeFetched(room.position, event);
      if (verdict === "hole") break;
      if (verdict === "apply") this.apply(room, event);
    }
    room.known = Math.max(room.known, frame.head);
    const moved = room.position > before;
    if (room.position < room.known && (moved || frame.more)) this.read(frame.room, room, now);
  }

  /** Something says that the room goes up to `head`. */
  private notice(id: string, room: Room, head: number, now: number): void {
    if (room.position === null || head <= room.position) return;
    room.known = Math.max(room.known, head);
    this.read(id, room, now);
  }

  private read(id: string, room: Room, now: number): void {
    if (room.reading || room.position === null || this.active === null) return;
    const ref = this.ref();
    room.reading = { ref, overdueAt: now + READ_OVERDUE_MS };
    this.write(this.active, {
      type: "fetch",
      ref,
      room: id,
      after: room.position,
      limit: FETCH_EVENTS,
    });
  }

  private apply(room: Room, event: LogEvent): void {
    room.position = event.seq;
    room.known = Math.max(room.known, event.seq);
    // Our own intent in the log is as good as its ack, whichever tab or connection sent it.
    if ("id" in event && event.from === this.user) {
      const entry = this.outbox.remove(event.id);
      if (entry) this.emit({ type: "acked", intent: entry.intent, seq: event.seq, at: event.at });
    }
    this.emit({ type: "apply", event });
  }

  private error(frame: Extract<ServerFrame, { type: "error" }>, now: number): void {
    if (frame.id !== undefined) {
      const { id, code, message, retry_after_ms } = frame;
      const entry = this.outbox.get(id);
      if (entry && this.outbox.refused(id, code, message, retry_after_ms, now, this.random()))
        this.emit({ type: "failed", intent: entry.intent, code, message });
      return;
    }
    const again = now + (frame.retry_after_ms ?? backoffMs(1, this.random()));
    for (const [id, room] of this.rooms) {
      if (room.reading && room.reading.ref === frame.ref) {
        if (!isRetryable(frame.code)) return this.lose(id, frame.code, frame.message);
        room.reading.overdueAt = again;
      } else if (frame.room === id && frame.ref !== undefined) {
        if (!isRetryable(frame.code)) return this.lose(id, frame.code, frame.message);
        room.conn = null;
        room.subscribeAt = again;
      }
    }
  }

  private lose(room: string, code: ErrorCode, message: string): void {
    this.rooms.delete(room);
    this.emit({ type: "lost_room", room, code, message });
  }

  private closed(conn: number, code: number | undefined, now: number): void {
    if (this.opening?.conn === conn) this.opening = null;
    else if (this.active === conn) {
      this.active = null;
      this.forgetConnection();
    } else return;
    if (this.opening) return this.setStatus("connecting");
    if (code === CLOSED_UNAUTHENTICATED) {
      this.connectAt = null;
      return this.setStatus("refused");
    }
    if (this.active !== null) {
      // The replacement failed; the old connection still serves, try again in a while.
      this.connectAt = now + backoffMs(this.attempt++, this.random());
      return;
    }
    this.connectAt ??= now + backoffMs(this.attempt, this.random());
    this.attempt += 1;
    this.setStatus("waiting");
  }

  private forgetConnection(): void {
    this.outbox.connectionLost();
    for (const room of this.rooms.values()) {
      room.conn = null;
      room.reading = null;
      room.subscribeAt = 0;
    }
  }

  private join(id: string, after: number | undefined): void {
    if (this.rooms.has(id)) return;
    this.rooms.set(id, {
      position: after ?? null,
      reading: null,
      known: after ?? 0,
      conn: null,
      subscribeAt: 0,
      received: 0,
      read: 0,
    });
  }

  private cursor(kind: "received" | "read", id: string, seq: number): void {
    const room = this.rooms.get(id);
    if (!room || seq <= room[kind]) return;
    room[kind] = seq;
    if (this.active !== null && room.conn === this.active)
      this.write(this.active, { type: kind, room: id, seq });
  }

  /** Whatever the passing of time or a change of state makes due. */
  private advance(now: number): void {
    if (this.opening && this.opening.overdueAt <= now) {
      const { conn } = this.opening;
      this.emit({ type: "close", conn });
      this.closed(conn, undefined, now);
    }
    if (this.active !== null && this.rooms.size > 0 && this.deadAt() <= now) {
      const conn = this.active;
      this.emit({ type: "close", conn });
      this.closed(conn, undefined, now);
    }
    if (this.connectAt !== null && this.connectAt <= now && !this.opening) {
      this.connectAt = null;
      this.opening = { conn: ++this.conns, overdueAt: now + CONNECT_OVERDUE_MS };
      this.emit({ type: "open", conn: this.opening.conn });
      if (this.active === null) this.setStatus("connecting");
    }
    if (this.active === null) return;
    this.subscribeDue(this.active, now);
    for (const [id, room] of this.rooms) {
      if (!room.reading || room.reading.overdueAt > now) continue;
      room.reading = null;
      this.read(id, room, now);
    }
    for (const intent of this.outbox.due(now)) this.write(this.active, intent);
  }

  private subscribeDue(conn: number, now: number): void {
    const due: { room: string; after?: number }[] = [];
    for (const [id, room] of this.rooms) {
      if (room.conn === conn || room.subscribeAt > now) continue;
      room.conn = conn;
      due.push(room.position === null ? { room: id } : { room: id, after: room.position });
    }
    for (let i = 0; i < due.length; i += SUBSCRIBE_ROOMS)
      this.write(conn, {
        type: "subscribe",
        ref: this.ref(),
        rooms: due.slice(i, i + SUBSCRIBE_ROOMS),
      });
  }

  /** Heads come with every heartbeat; two of them missing means that nobody is there. */
  private deadAt(): number {
    return this.heardAt + 2 * this.heartbeatMs + 10_000;
  }

  private setStatus(status: Status): void {
    if (this.status === status) return;
    this.status = status;
    this.emit({ type: "status", status });
  }

  private write(conn: number, frame: ClientFrame): void {
    this.emit({ type: "write", conn, frame });
  }

  private ref(): string {
    this.refs += 1;
    return `w${this.refs}`;
  }

  private emit(effect: Effect): void {
    this.out.push(effect);
  }
}

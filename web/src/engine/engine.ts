/**
 * Decides everything about staying connected and missing nothing, and does no I/O: it is told what happened and when, and
 * answers with what to do, in order. The scenarios in `vectors/resume` run against this engine and the Rust one alike.
 */
import { ASKED_WAIT_MAX_MS, type Config, DEFAULTS } from "./config";
import type { Effect, Input, Subscription } from "./effect";
import { type Act, isRetryable, type Limits, type LogEvent, type ServerFrame } from "./frames";
import { Link, least } from "./link";
import { askedWait, Outbox } from "./outbox";
import { type Context, Room } from "./room";
import { Turn } from "./turn";

/** What is worth keeping: where each room was left, and what was not acknowledged. */
export interface Saved {
  positions: Record<string, number>;
  outbox: Act[];
}

type Refusal = Extract<ServerFrame, { type: "error" }>;

const CLOSED_UNAUTHENTICATED = 4401;

export class Engine {
  private readonly config: Config;
  private readonly link = new Link();
  private readonly outbox: Outbox;
  private readonly rooms = new Map<string, Room>();
  private user: string | undefined;
  private limits: Pick<Limits, "frame_bytes" | "subscribe_rooms" | "fetch_events"> = {
    frame_bytes: 65_536,
    subscribe_rooms: 200,
    fetch_events: 200,
  };
  /** Counts the `ref`s of requests. */
  private requests = 0;

  constructor(config: Partial<Config>, saved: Partial<Saved> = {}) {
    this.config = { ...DEFAULTS, ...config };
    this.user = config.hello?.user;
    this.outbox = new Outbox(saved.outbox ?? []);
    for (const [id, position] of Object.entries(saved.positions ?? {}))
      this.rooms.set(id, new Room(id, position));
  }

  saved(): Saved {
    const known = [...this.rooms].flatMap(([id, room]) =>
      room.position === null ? [] : [[id, room.position]],
    );
    return { positions: Object.fromEntries(known), outbox: this.outbox.acts() };
  }

  position(room: string): number | null {
    return this.rooms.get(room)?.position ?? null;
  }

  /** No longer sends this act: its user gave it up, or another tab has its answer. */
  forget(id: string): void {
    this.outbox.forget(id);
  }

  /** When the engine wants a `tick`, or null. */
  wakeAt(): number | null {
    const link = this.link.wakeAt();
    if (this.link.live === null) return link;
    return least([link, this.outbox.wakeAt(), ...[...this.rooms.values()].map((room) => room.wakeAt())]);
  }

  /** Takes in what happened and says what to do. `random` is a number in [0, 1). */
  handle(input: Input, now: number, random: number): Effect[] {
    const turn = new Turn(now, random, this.config);
    this.take(input, turn);
    return turn.out;
  }

  private take(input: Input, turn: Turn): void {
    switch (input.type) {
      case "start":
        if (input.hello) {
          this.user = input.hello.user;
          this.config.hello = input.hello;
        }
        this.link.start(turn);
        return;
      case "stop":
        this.stop(null, turn);
        return;
      case "retry_now":
        this.link.retryNow(turn);
        return;
      case "opened":
        this.link.opened(input.conn, turn);
        return;
      case "heard":
        this.link.heard(input.conn, turn.now);
        return;
      case "frame":
        this.link.heard(input.conn, turn.now);
        this.frame(input.conn, input.frame, turn);
        return;
      case "closed":
        this.closed(input.conn, input.code, input.reason, turn);
        return;
      case "tick":
        this.tick(turn);
        return;
      case "subscribe":
        this.want(input.rooms, turn);
        return;
      case "unsubscribe":
        this.unwant(input.rooms, turn);
        return;
      case "submit":
        this.outbox.submit(input.act, turn);
        this.pump(turn);
        return;
      case "read":
        this.rooms.get(input.room)?.read(input.seq, this.link.live, turn);
        return;
      case "typing":
        if (this.link.live !== null)
          turn.send(this.link.live, { type: "typing", room: input.room, on: input.on });
        return;
    }
  }

  private frame(conn: number, frame: ServerFrame, turn: Turn): void {
    if (frame.type === "welcome") {
      const welcomed = this.link.welcomed(conn, frame.heartbeat_secs, turn);
      if (!welcomed) return;
      this.user = frame.user;
      this.limits = { ...this.limits, ...frame.limits };
      turn.emit({ type: "signal", frame });
      this.resume(turn);
      if (welcomed.replaces !== null) turn.emit({ type: "close", conn: welcomed.replaces });
      return;
    }
    if (this.link.live !== conn) {
      if (frame.type === "error") this.refusedAtTheDoor(conn, frame, turn);
      return;
    }
    const context = this.context(conn, turn);
    switch (frame.type) {
      case "event": {
        const { type: _, ...event } = frame;
        this.rooms.get(frame.room)?.event(event as LogEvent, context);
        this.pump(turn);
        return;
      }
      case "events":
        this.rooms.get(frame.room)?.page(frame.ref, frame.events, context);
        this.pump(turn);
        return;
      case "subscribed":
        this.rooms.get(frame.room)?.subscribed(frame, context);
        return;
      case "heads":
        for (const [id, head] of Object.entries(frame.rooms)) this.rooms.get(id)?.head(head, turn);
        return;
      case "ack": {
        const { id, room, seq, at } = frame;
        const duplicate = frame.duplicate ? { duplicate: true as const } : {};
        this.outbox.settle(id, { state: "sent", room, seq, at, ...duplicate }, turn);
        this.pump(turn);
        return;
      }
      case "error":
        this.error(frame, turn);
        return;
      case "goaway":
        this.link.goaway(turn.now + Math.min(frame.reconnect_in_ms, ASKED_WAIT_MAX_MS));
        turn.emit({ type: "signal", frame });
        return;
      case "notice": {
        turn.emit({ type: "signal", frame });
        if (frame.room === undefined) return;
        if (frame.kind === "room_removed") this.roomClosed(frame.room, "removed", undefined, turn);
        if (frame.kind === "room_deleted") this.roomClosed(frame.room, "deleted", undefined, turn);
        return;
      }
      case "receipt":
      case "typing":
      case "presence":
        turn.emit({ type: "signal", frame });
        return;
      default:
        return;
    }
  }

  private context(conn: number, turn: Turn): Context {
    const { user, outbox } = this;
    const fetchLimit = Math.max(1, Math.min(this.config.fetch_limit, this.limits.fetch_events));
    return { turn, conn, user, outbox, fetchLimit, nextRef: () => this.nextRef() };
  }

  private nextRef(): string {
    this.requests += 1;
    return String(this.requests);
  }

  /** A new connection is live: subscribe to every room from where it was left, then send what was not acknowledged. */
  private resume(turn: Turn): void {
    for (const room of this.rooms.values()) room.disconnected();
    this.outbox.disconnected();
    this.subscribeDue(turn);
    this.pump(turn);
  }

  private error(error: Refusal, turn: Turn): void {
    if (error.code === "unauthenticated") {
      // Nothing is wrong with what was asked; it waits until somebody has signed in again.
      this.stop({ code: error.code, message: error.message }, turn);
      return;
    }
    if (error.id !== undefined && this.outbox.has(error.id)) {
      this.outbox.refused(error.id, error, turn);
      this.pump(turn);
      return;
    }
    const meant = this.sorted().filter(
      (room) => (error.room === undefined || error.room === room.id) && room.isAbout(error.ref),
    );
    for (const room of meant) {
      if (isRetryable(error.code)) room.tryLater(askedWait(error), error.ref, turn);
      else this.roomClosed(room.id, error.code, error.message, turn);
    }
    if (meant.length === 0) turn.emit({ type: "signal", frame: error });
  }

  /** An `error` before `welcome`: signing in failed. */
  private refusedAtTheDoor(conn: number, error: Refusal, turn: Turn): void {
    if (!this.link.knows(conn)) return;
    if (isRetryable(error.code)) {
      turn.emit({ type: "close", conn });
      this.lost(conn, askedWait(error), turn);
    } else this.stop({ code: error.code, message: error.message }, turn);
  }

  private roomClosed(
    id: string,
    reason: Extract<Effect, { type: "room_closed" }>["reason"],
    message: string | undefined,
    turn: Turn,
  ): void {
    if (!this.rooms.delete(id)) return;
    turn.emit({ type: "room_closed", room: id, reason, ...(message === undefined ? {} : { message }) });
  }

  private closed(conn: number, code: number | undefined, reason: string | undefined, turn: Turn): void {
    if (!this.link.knows(conn)) return;
    if (code !== CLOSED_UNAUTHENTICATED) return this.lost(conn, 0, turn);
    this.offlineWithout(conn, turn);
    this.link.forget(conn);
    this.stop({ code: "unauthenticated", message: reason ?? "" }, turn);
  }

  /** Socket `conn` is no more; connect again after the backoff and at least `wait` ms. */
  private lost(conn: number, wait: number, turn: Turn): void {
    this.offlineWithout(conn, turn);
    this.link.lost(conn, wait, turn);
  }

  /** If `conn` is the live socket, nothing is subscribed or on its way any more. */
  private offlineWithout(conn: number, turn: Turn): void {
    if (this.link.live !== conn) return;
    for (const room of this.rooms.values()) room.disconnected();
    this.outbox.offline(turn);
  }

  private stop(why: Parameters<Link["stop"]>[0], turn: Turn): void {
    if (this.link.live !== null) this.offlineWithout(this.link.live, turn);
    this.link.stop(why, turn);
  }

  private tick(turn: Turn): void {
    for (const conn of this.link.timedOut(turn.now)) {
      turn.emit({ type: "close", conn });
      this.lost(conn, 0, turn);
    }
    this.link.tick(turn);
    const conn = this.link.live;
    if (conn === null) return;
    this.subscribeDue(turn);
    for (const room of this.sorted()) {
      const at = room.wakeAt();
      if (at !== null && at <= turn.now) room.tick(this.context(conn, turn));
    }
    this.pump(turn);
  }

  private want(rooms: readonly Subscription[], turn: Turn): void {
    for (const { room, after } of rooms)
      if (!this.rooms.has(room)) this.rooms.set(room, new Room(room, after ?? null));
    this.subscribeDue(turn);
  }

  private unwant(rooms: readonly string[], turn: Turn): void {
    const known = rooms.filter((room) => this.rooms.delete(room));
    if (this.link.live !== null && known.length > 0)
      turn.send(this.link.live, { type: "unsubscribe", ref: this.nextRef(), rooms: known });
  }

  /** Subscribes to every room that is wanted and not asked for, in as few frames as the server allows. */
  private subscribeDue(turn: Turn): void {
    const conn = this.link.live;
    if (conn === null) return;
    const due = this.sorted().filter((room) => room.wantsToSubscribe(turn.now));
    const size = Math.max(1, this.limits.subscribe_rooms);
    for (let i = 0; i < due.length; i += size) {
      const ref = this.nextRef();
      const deadline = turn.now + turn.config.request_timeout_ms;
      const rooms = due.slice(i, i + size).map((room) => room.subscribe(ref, deadline));
      turn.send(conn, { type: "subscribe", ref, rooms });
    }
  }

  /** Sends what may be sent from the outbox. */
  private pump(turn: Turn): void {
    if (this.link.live !== null) this.outbox.pump(this.link.live, this.limits.frame_bytes, turn);
  }

  /** By id, so that what happens does not depend on the order in which rooms were named. */
  private sorted(): Room[] {
    return [...this.rooms.values()].sort((a, b) => (a.id < b.id ? -1 : 1));
  }
}

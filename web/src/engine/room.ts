/** One room: where its reader stands, what is missing, and what the server still has to be told. */
import type { Subscription } from "./effect";
import type { LogEvent, ServerFrame } from "./frames";
import { least } from "./link";
import type { Outbox } from "./outbox";
import type { Turn } from "./turn";

type Phase =
  | { name: "none" }
  | { name: "asked"; ref: string; deadline: number }
  | { name: "retry"; at: number }
  /** A subscription whose events flow. */
  | { name: "live"; ref: string };

/** A question to the server. */
class Request {
  phase: Phase = { name: "none" };
  private failures = 0;

  dueAt(): number | null {
    if (this.phase.name === "asked") return this.phase.deadline;
    return this.phase.name === "retry" ? this.phase.at : null;
  }

  waitsFor(ref: string | undefined): boolean {
    return this.phase.name === "asked" && this.phase.ref === ref;
  }

  /** Whether a refusal of `ref` is about this. The server can refuse a subscription that it has confirmed. */
  isAbout(ref: string | undefined): boolean {
    return (this.phase.name === "asked" || this.phase.name === "live") && this.phase.ref === ref;
  }

  tryLater(wait: number, turn: Turn): void {
    const at = turn.now + wait + turn.backoff(this.failures);
    this.failures += 1;
    this.phase = { name: "retry", at };
  }

  reset(phase: Phase = { name: "none" }): void {
    this.phase = phase;
    this.failures = 0;
  }
}

/** What a room needs of the engine while it handles something. */
export interface Context {
  readonly turn: Turn;
  readonly conn: number;
  readonly user: string | undefined;
  readonly outbox: Outbox;
  /** How many events one `fetch` may ask for. */
  readonly fetchLimit: number;
  nextRef(): string;
}

export class Room {
  /** The last event delivered; null until the server has said where a new subscription begins. */
  position: number | null;
  private readonly subscription = new Request();
  /** The `after` of the subscription. */
  private asked: number | null = null;
  private readonly fetch = new Request();
  /** Events behind a hole, ascending. */
  private held: LogEvent[] = [];
  /** The highest seq known to exist behind a hole; fetching goes on until it is reached. */
  private target = 0;
  /** The head that the server has named, and until when its events may take. */
  private announced: { head: number; at: number } | null = null;
  /** The last `received` that this connection carried. */
  private receivedSent: number | null = null;
  private receivedAt: number | null = null;
  /** Whether anything was ever delivered, so that there is something to confirm. */
  private delivered = false;
  private readTo: number | null = null;

  constructor(
    readonly id: string,
    position: number | null,
  ) {
    this.position = position;
  }

  wakeAt(): number | null {
    return least([
      this.subscription.dueAt(),
      this.fetch.dueAt(),
      this.announced?.at ?? null,
      this.receivedAt,
    ]);
  }

  /** Forgets what belonged to the connection. The next one is asked for everything after the position. */
  disconnected(): void {
    this.subscription.reset();
    this.receivedSent = this.receivedAt = null;
    this.forgetHole();
  }

  wantsToSubscribe(now: number): boolean {
    const { name } = this.subscription.phase;
    if (name === "none") return true;
    return name !== "live" && (this.subscription.dueAt() ?? 0) <= now;
  }

  subscribe(ref: string, deadline: number): Subscription {
    this.subscription.phase = { name: "asked", ref, deadline };
    this.asked = this.position;
    return this.asked === null ? { room: this.id } : { room: this.id, after: this.asked };
  }

  /** Whether a refusal of `ref` concerns this room. */
  isAbout(ref: string | undefined): boolean {
    return this.subscription.isAbout(ref) || this.fetch.isAbout(ref);
  }

  /** Request `ref` was refused for now. */
  tryLater(wait: number, ref: string | undefined, turn: Turn): void {
    (this.subscription.isAbout(ref) ? this.subscription : this.fetch).tryLater(wait, turn);
  }

  subscribed(answer: Extract<ServerFrame, { type: "subscribed" }>, context: Context): void {
    const { ref } = answer;
    if (ref === undefined || !this.subscription.waitsFor(ref)) return;
    this.subscription.reset({ name: "live", ref });
    const asked = this.asked ?? answer.after;
    const { turn } = context;
    if (answer.head < asked || answer.after < asked) {
      this.forgetHole();
      this.receivedAt = this.readTo = null;
      this.delivered = false;
      this.position = answer.after;
      turn.emit({ type: "reset_room", room: this.id, position: answer.after, head: answer.head });
    }
    this.position ??= answer.after;
    turn.emit({ type: "signal", frame: answer });
    if (this.readTo !== null && this.readTo > (answer.read ?? 0))
      this.sendRead(this.readTo, context.conn, turn);
    this.confirmLater(turn);
    if (answer.after > this.position) this.missing(answer.after, context);
  }

  /**
   * The one rule: what follows the position is delivered, what lies before it is dropped, what lies behind a hole waits
   * until the hole is filled. A fence names no predecessor, so only the log can tell whether one is missing.
   */
  event(event: LogEvent, context: Context): void {
    if (this.position === null || event.seq <= this.position) return;
    if (event.prev === this.position) {
      this.deliver(event, context);
      this.drain(context);
      return;
    }
    if (this.held.length < context.turn.config.hold_max) this.hold(event);
    this.missing(event.seq, context);
  }

  /** The answer to a fetch: a piece of the log without holes, so a fence in it follows what stands before it. */
  page(ref: string | undefined, events: readonly LogEvent[], context: Context): void {
    if (!this.fetch.waitsFor(ref)) return;
    const before = this.position ?? -1;
    for (const event of events) {
      const position = this.position ?? 0;
      if (event.seq <= position) continue;
      if (event.prev !== null && event.prev !== position) break;
      this.deliver(event, context);
    }
    this.drain(context);
    const position = this.position ?? -1;
    if (position >= this.target) this.fetch.reset();
    else if (position > before) {
      this.fetch.reset();
      this.ask(context);
    } else this.fetch.tryLater(0, context.turn);
  }

  /** The server says that the room ends at `head`. Its events may be on their way; if not, they are fetched. */
  head(head: number, turn: Turn): void {
    const behind = this.position !== null && this.position < head;
    if (!behind || this.subscription.phase.name !== "live") return;
    this.announced = { head, at: this.announced?.at ?? turn.now + turn.config.heads_grace_ms };
  }

  read(seq: number, live: number | null, turn: Turn): void {
    if (this.readTo !== null && this.readTo >= seq) return;
    this.readTo = seq;
    if (live !== null && this.subscription.phase.name === "live") this.sendRead(seq, live, turn);
  }

  tick(context: Context): void {
    const { turn } = context;
    const fetchDue = this.fetch.dueAt();
    if (fetchDue !== null && fetchDue <= turn.now) {
      if ((this.position ?? -1) >= this.target) this.fetch.reset();
      else this.ask(context);
    }
    if (this.announced && this.announced.at <= turn.now) {
      const { head } = this.announced;
      this.announced = null;
      this.missing(head, context);
    }
    if (this.receivedAt !== null && this.receivedAt <= turn.now) {
      this.receivedAt = null;
      if (this.position === null) return;
      this.receivedSent = this.position;
      turn.send(context.conn, { type: "received", room: this.id, seq: this.position });
    }
  }

  private deliver(event: LogEvent, { turn, outbox, user }: Context): void {
    this.position = event.seq;
    this.delivered = true;
    if (this.announced && this.announced.head <= event.seq) this.announced = null;
    else if (this.announced) this.announced.at = turn.now + turn.config.heads_grace_ms;
    outbox.seen(event, user, turn);
    turn.emit({ type: "deliver", event });
    this.confirmLater(turn);
  }

  private hold(event: LogEvent): void {
    const at = this.held.findIndex((e) => e.seq >= event.seq);
    if (at < 0) this.held.push(event);
    else this.held.splice(at, this.held[at]?.seq === event.seq ? 1 : 0, event);
  }

  /** Delivers the held events that now follow. */
  private drain(context: Context): void {
    for (let first = this.held[0]; first; first = this.held[0]) {
      const position = this.position ?? 0;
      const stale = first.seq <= position;
      if (!stale && first.prev !== position) return;
      this.held.shift();
      if (!stale) this.deliver(first, context);
    }
  }

  /** Everything up to `seq` exists and has not come. */
  private missing(seq: number, context: Context): void {
    this.target = Math.max(this.target, seq);
    if (this.fetch.phase.name === "none") this.ask(context);
  }

  private ask({ turn, conn, nextRef, fetchLimit }: Context): void {
    const ref = nextRef();
    this.fetch.phase = { name: "asked", ref, deadline: turn.now + turn.config.request_timeout_ms };
    turn.send(conn, { type: "fetch", ref, room: this.id, after: this.position ?? 0, limit: fetchLimit });
  }

  private confirmLater(turn: Turn): void {
    if (this.delivered && this.receivedAt === null && this.receivedSent !== this.position)
      this.receivedAt = turn.now + turn.config.received_delay_ms;
  }

  private sendRead(seq: number, conn: number, turn: Turn): void {
    turn.send(conn, { type: "read", room: this.id, seq });
  }

  private forgetHole(): void {
    this.fetch.reset();
    this.held = [];
    this.target = 0;
    this.announced = null;
  }
}

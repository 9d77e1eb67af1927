/** The sockets: at most one in use, and while the server asks to move, at most one more being opened. */
import type { State } from "./effect";
import type { Turn } from "./turn";

type Phase =
  | { live: false; deadline: number }
  | { live: true; since: number; heardAt: number; silenceMax: number };

interface Socket {
  readonly conn: number;
  phase: Phase;
}

export class Link {
  /** The socket in use, or on its way to be. */
  private current: Socket | null = null;
  /** The one that will replace it. */
  private next: Socket | null = null;
  /** When to open a socket, because there is none. */
  private retryAt: number | null = null;
  /** When to open `next`, because the server is leaving. */
  private moveAt: number | null = null;
  /** Connections lost in a row without a stable one between them. */
  private failures = 0;
  private count = 0;
  private reported = "";

  /** The socket that requests go to. */
  get live(): number | null {
    return this.current?.phase.live ? this.current.conn : null;
  }

  knows(conn: number): boolean {
    return this.current?.conn === conn || this.next?.conn === conn;
  }

  wakeAt(): number | null {
    return least([...this.sockets().map(deadlineOf), this.retryAt, this.moveAt]);
  }

  start(turn: Turn): void {
    if (this.current || this.retryAt !== null) return;
    this.failures = 0;
    this.openCurrent(turn);
  }

  retryNow(turn: Turn): void {
    if (this.retryAt !== null) this.openCurrent(turn);
  }

  opened(conn: number, turn: Turn): void {
    if (this.knows(conn) && turn.config.hello) turn.send(conn, { type: "hello", ...turn.config.hello });
  }

  heard(conn: number, now: number): void {
    for (const socket of this.sockets())
      if (socket.conn === conn && socket.phase.live) socket.phase.heardAt = now;
  }

  /** `conn` is signed in. Returns the one that it replaces, or null when the welcome changes nothing. */
  welcomed(conn: number, heartbeatSecs: number, turn: Turn): { replaces: number | null } | null {
    const opening = (socket: Socket | null) => socket?.conn === conn && !socket.phase.live;
    let replaces: number | null = null;
    if (opening(this.next)) {
      replaces = this.current?.conn ?? null;
      this.next = null;
    } else if (!opening(this.current)) return null;
    const silenceMax = Math.min(3600, Math.max(1, heartbeatSecs)) * 3000;
    this.current = { conn, phase: { live: true, since: turn.now, heardAt: turn.now, silenceMax } };
    this.report({ state: "online" }, turn);
    return { replaces };
  }

  /** The server will leave: open another socket at `at`, unless that is already going to happen. */
  goaway(at: number): void {
    if (!this.next && this.moveAt === null) this.moveAt = at;
  }

  /** Sockets that were silent for too long. */
  timedOut(now: number): number[] {
    return this.sockets()
      .filter((socket) => deadlineOf(socket) <= now)
      .map((socket) => socket.conn);
  }

  /** Opens the socket whose time has come. */
  tick(turn: Turn): void {
    if (this.retryAt !== null && this.retryAt <= turn.now) this.openCurrent(turn);
    if (this.moveAt !== null && this.moveAt <= turn.now) {
      this.moveAt = null;
      this.next = this.open(turn);
    }
  }

  forget(conn: number): void {
    if (this.current?.conn === conn) this.current = null;
    if (this.next?.conn === conn) this.next = null;
  }

  /** `conn` is gone. The other socket takes its place if there is one; else one is opened after the backoff. */
  lost(conn: number, wait: number, turn: Turn): void {
    const phase = this.current?.conn === conn ? this.current.phase : null;
    if (phase?.live && turn.now - phase.since >= turn.config.stable_ms) this.failures = 0;
    this.forget(conn);
    if (!this.current && this.next) {
      this.current = this.next;
      this.next = null;
      this.report({ state: "connecting" }, turn);
      return;
    }
    const retry_in_ms = wait + turn.backoff(this.failures);
    this.failures += 1;
    if (this.current) {
      this.moveAt = turn.now + retry_in_ms;
      return;
    }
    this.moveAt = null;
    this.retryAt = turn.now + retry_in_ms;
    this.report({ state: "waiting", retry_in_ms }, turn);
  }

  stop(why: Omit<Extract<State, { state: "stopped" }>, "state"> | null, turn: Turn): void {
    for (const { conn } of this.sockets()) turn.emit({ type: "close", conn });
    this.current = this.next = null;
    this.retryAt = this.moveAt = null;
    this.report({ state: "stopped", ...why }, turn);
  }

  private sockets(): Socket[] {
    return [this.current, this.next].filter((socket) => socket !== null);
  }

  private openCurrent(turn: Turn): void {
    this.retryAt = null;
    this.report({ state: "connecting" }, turn);
    this.current = this.open(turn);
  }

  private open(turn: Turn): Socket {
    this.count += 1;
    turn.emit({ type: "connect", conn: this.count });
    return { conn: this.count, phase: { live: false, deadline: turn.now + turn.config.connect_timeout_ms } };
  }

  private report(state: State, turn: Turn): void {
    const text = JSON.stringify(state);
    if (text === this.reported) return;
    this.reported = text;
    turn.emit({ type: "status", ...state });
  }
}

function deadlineOf({ phase }: Socket): number {
  return phase.live ? phase.heardAt + phase.silenceMax : phase.deadline;
}

/** The earliest of some times, of which none may be set. */
export function least(times: readonly (number | null)[]): number | null {
  return times.reduce((first, t) => (t !== null && (first === null || t < first) ? t : first), null);
}

/** What waits for its ack. One act per room is on its way at a time, so a refusal cannot change the order. */
import { ASKED_WAIT_MAX_MS } from "./config";
import type { OutboxState } from "./effect";
import { type Act, type ErrorCode, isRetryable, type LogEvent, type ServerFrame } from "./frames";
import { least } from "./link";
import type { Turn } from "./turn";

type Phase = { name: "queued" } | { name: "sending"; deadline: number } | { name: "waiting"; until: number };

interface Entry {
  readonly act: Act;
  phase: Phase;
  refusals: number;
}

export class Outbox {
  private entries: Entry[];
  /** The sender has sent too much: nothing goes out before this. */
  private pausedUntil = 0;

  constructor(acts: readonly Act[]) {
    this.entries = acts.map(entryOf);
  }

  acts(): Act[] {
    return this.entries.map((entry) => entry.act);
  }

  has(id: string): boolean {
    return this.entries.some((entry) => entry.act.id === id);
  }

  submit(act: Act, turn: Turn): void {
    const { id } = act;
    if (this.has(id)) return;
    if (this.entries.length >= turn.config.outbox_max) {
      turn.emit({
        type: "outbox",
        id,
        state: "failed",
        code: "outbox_full",
        message: "the outbox is full",
      });
      return;
    }
    this.entries.push(entryOf(act));
    turn.emit({ type: "outbox", id, state: "queued" });
  }

  wakeAt(): number | null {
    return least(this.heads().map((entry) => this.dueAt(entry)));
  }

  /**
   * Sends the first act of every room that is neither on its way nor waiting. An act whose answer is overdue is sent
   * again: its id makes that harmless.
   */
  pump(conn: number, frameBytes: number, turn: Turn): void {
    for (;;) {
      const tooLarge: string[] = [];
      for (const entry of this.heads()) {
        if (this.dueAt(entry) > turn.now) continue;
        const { id } = entry.act;
        if (new TextEncoder().encode(JSON.stringify(entry.act)).length > frameBytes) {
          tooLarge.push(id);
          continue;
        }
        entry.phase = { name: "sending", deadline: turn.now + turn.config.request_timeout_ms };
        turn.send(conn, entry.act);
        turn.emit({ type: "outbox", id, state: "sending" });
      }
      if (tooLarge.length === 0) return;
      // The server would close the connection over it, again and again.
      const message = "the frame is larger than the server accepts";
      for (const id of tooLarge) this.settle(id, { state: "failed", code: "too_large", message }, turn);
    }
  }

  /** The fate of `id` is known. */
  settle(id: string, state: OutboxState, turn: Turn): void {
    if (!this.has(id)) return;
    this.entries = this.entries.filter((entry) => entry.act.id !== id);
    turn.emit({ type: "outbox", id, ...state });
  }

  /** An event in the log proves that the act was kept, as well as an ack does. */
  seen(event: LogEvent, user: string | undefined, turn: Turn): void {
    if (this.entries.length === 0 || !("id" in event) || event.from === undefined || event.from !== user)
      return;
    const entry = this.entries.find((e) => e.act.id === event.id);
    if (!entry || (entry.act.room ?? event.room) !== event.room) return;
    this.settle(event.id, { state: "sent", room: event.room, seq: event.seq, at: event.at }, turn);
  }

  refused(id: string, error: Extract<ServerFrame, { type: "error" }>, turn: Turn): void {
    const entry = this.entries.find((e) => e.act.id === id);
    if (!entry) return;
    const { code, message } = error;
    const hopeless = code === "internal" && entry.refusals + 1 >= turn.config.internal_max;
    if (!isRetryable(code) || hopeless) {
      this.settle(id, { state: "failed", code, message }, turn);
      return;
    }
    if (entry.phase.name !== "sending") return;
    const retry_in_ms = askedWait(error) + turn.backoff(entry.refusals);
    const until = turn.now + retry_in_ms;
    entry.refusals += 1;
    entry.phase = { name: "waiting", until };
    if (code === "rate_limited") this.pausedUntil = Math.max(this.pausedUntil, until);
    turn.emit({ type: "outbox", id, state: "waiting", code, retry_in_ms });
  }

  /** Whatever was on its way may or may not have arrived; it will be sent again. */
  disconnected(): string[] {
    const back = this.entries.filter((entry) => entry.phase.name === "sending");
    for (const entry of back) entry.phase = { name: "queued" };
    return back.map((entry) => entry.act.id);
  }

  /** Like `disconnected`, and says so: no other connection takes over at once. */
  offline(turn: Turn): void {
    for (const id of this.disconnected()) turn.emit({ type: "outbox", id, state: "queued" });
  }

  /** A person no longer wants it, or another tab has its answer. */
  forget(id: string): void {
    this.entries = this.entries.filter((entry) => entry.act.id !== id);
  }

  /** The first entry of each room, or of each user that is written to. */
  private heads(): Entry[] {
    const lanes = new Set<string>();
    return this.entries.filter(({ act }) => {
      const lane = act.room !== undefined ? `#${act.room}` : `@${act.to ?? ""}`;
      if (lanes.has(lane)) return false;
      lanes.add(lane);
      return true;
    });
  }

  private dueAt({ phase }: Entry): number {
    if (phase.name === "sending") return phase.deadline;
    return phase.name === "waiting" ? Math.max(phase.until, this.pausedUntil) : this.pausedUntil;
  }
}

function entryOf(act: Act): Entry {
  return { act, phase: { name: "queued" }, refusals: 0 };
}

export function askedWait(error: { code: ErrorCode; retry_after_ms?: number }): number {
  return Math.min(error.retry_after_ms ?? 0, ASKED_WAIT_MAX_MS);
}

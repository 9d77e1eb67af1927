import { backoffMs } from "./backoff";
import type { ErrorCode, Intent } from "./frames";

/** Errors that pass by themselves; all others are the server's last word on this intent. */
const RETRYABLE: ReadonlySet<ErrorCode> = new Set(["unavailable", "overloaded", "rate_limited"]);

export function isRetryable(code: ErrorCode): boolean {
  return RETRYABLE.has(code);
}

export interface Entry {
  readonly intent: Intent;
  state: "waiting" | "in_flight" | "failed";
  /** Not sent again before this time. */
  notBefore: number;
  /** When the answer is overdue and the same id is sent again, which is safe. */
  overdueAt: number;
  tries: number;
  failure?: { code: ErrorCode; message: string };
}

const ANSWER_OVERDUE_MS = 15_000;

/**
 * What a person did and the server has not acked. Entries of one room leave one at a time in the order they were made,
 * so that neither a lost connection nor a refusal can change that order.
 */
export class Outbox {
  private readonly entries = new Map<string, Entry>();

  add(intent: Intent): void {
    if (this.entries.has(intent.id)) return;
    this.entries.set(intent.id, { intent, state: "waiting", notBefore: 0, overdueAt: 0, tries: 0 });
  }

  get(id: string): Entry | undefined {
    return this.entries.get(id);
  }

  /** Everything not acked, oldest first. */
  list(): Entry[] {
    return [...this.entries.values()];
  }

  /** Takes an entry out: acked, seen in the log, or discarded. */
  remove(id: string): Entry | undefined {
    const entry = this.entries.get(id);
    this.entries.delete(id);
    return entry;
  }

  /** The intents to write now; they are in flight afterwards. */
  due(now: number): Intent[] {
    const due: Intent[] = [];
    for (const entry of this.heads()) {
      const overdue = entry.state === "in_flight" && entry.overdueAt <= now;
      if (!overdue && (entry.state !== "waiting" || entry.notBefore > now)) continue;
      entry.state = "in_flight";
      entry.overdueAt = now + ANSWER_OVERDUE_MS;
      due.push(entry.intent);
    }
    return due;
  }

  /** When `due` should be asked next, or null while nothing waits for a time. */
  wakeAt(): number | null {
    let at: number | null = null;
    for (const entry of this.heads()) {
      const when = entry.state === "in_flight" ? entry.overdueAt : entry.notBefore;
      if (at === null || when < at) at = when;
    }
    return at;
  }

  /** The server refused: true when that is final and a person has to decide. */
  refused(
    id: string,
    code: ErrorCode,
    message: string,
    retryAfterMs: number | undefined,
    now: number,
    random: number,
  ): boolean {
    const entry = this.entries.get(id);
    if (!entry) return false;
    if (!isRetryable(code)) {
      entry.state = "failed";
      entry.failure = { code, message };
      return true;
    }
    entry.state = "waiting";
    entry.notBefore = now + Math.max(retryAfterMs ?? 0, backoffMs(entry.tries, random));
    entry.tries += 1;
    return false;
  }

  /** The connection is gone: what was in flight may or may not have arrived, so it goes out again. */
  connectionLost(): void {
    for (const entry of this.entries.values()) {
      if (entry.state === "in_flight") entry.state = "waiting";
      entry.notBefore = 0;
    }
  }

  /** A person wants a refused entry tried again. */
  retry(id: string): void {
    const entry = this.entries.get(id);
    if (entry?.state !== "failed") return;
    entry.state = "waiting";
    entry.notBefore = 0;
    entry.tries = 0;
    delete entry.failure;
  }

  /** The oldest entry of each room that is not given up. */
  private heads(): Entry[] {
    const rooms = new Set<string>();
    const heads: Entry[] = [];
    for (const entry of this.entries.values()) {
      if (entry.state === "failed" || rooms.has(entry.intent.room)) continue;
      rooms.add(entry.intent.room);
      heads.push(entry);
    }
    return heads;
  }
}

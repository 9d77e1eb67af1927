import type { Config } from "./config";
import type { Effect } from "./effect";
import type { ClientFrame } from "./frames";

/** One call of the engine: its moment, its number in [0, 1), and the effects so far. */
export class Turn {
  readonly out: Effect[] = [];

  constructor(
    readonly now: number,
    private readonly random: number,
    readonly config: Config,
  ) {}

  emit(effect: Effect): void {
    this.out.push(effect);
  }

  send(conn: number, frame: ClientFrame): void {
    this.emit({ type: "send_frame", conn, frame });
  }

  /** Full jitter: anything from nothing to `base × 2^attempt`, at most `cap`. */
  backoff(attempt: number): number {
    const { backoff_base_ms, backoff_cap_ms } = this.config;
    return Math.floor(Math.min(backoff_cap_ms, backoff_base_ms * 2 ** attempt) * this.random);
  }
}

import type { LogEvent } from "./frames";

/** What a reader at a position does with an event that arrives. */
export type Verdict = "apply" | "drop" | "hole";

/**
 * The one rule of the log. A reader at `position` that meets an event with `prev == position` has missed nothing;
 * one at or below the position is a duplicate; anything else means that events between are missing.
 */
export function judge(position: number, event: Pick<LogEvent, "seq" | "prev">): Verdict {
  if (event.seq <= position) return "drop";
  return event.prev === position ? "apply" : "hole";
}

/** The same for an event read from the log itself, where a fence closes everything before it. */
export function judgeFetched(position: number, event: Pick<LogEvent, "seq" | "prev">): Verdict {
  if (event.seq <= position) return "drop";
  return event.prev === null || event.prev === position ? "apply" : "hole";
}

import type { Hello } from "./effect";

/** Bounds and times; the names are those of the shared scenarios. */
export interface Config {
  /** The first frame on a new socket. */
  hello?: Hello;
  /** Acts that may wait for their ack; another one is refused with `outbox_full`. */
  outbox_max: number;
  /** Events per room that are kept while a hole before them is being filled; the rest is fetched again. */
  hold_max: number;
  /** From asking for a socket until its `welcome`. */
  connect_timeout_ms: number;
  /** From a request until its answer; then it is sent again. */
  request_timeout_ms: number;
  backoff_base_ms: number;
  backoff_cap_ms: number;
  /** A connection that lived this long starts the backoff anew when it is lost. */
  stable_ms: number;
  /** How long the server may take for the events that a `heads` frame announced. */
  heads_grace_ms: number;
  /** How long a `received` cursor waits for more events to confirm with it. */
  received_delay_ms: number;
  /** Events in one `fetch`; fewer if the server allows fewer. */
  fetch_limit: number;
  /** An act that was refused this often with `internal` is given back. */
  internal_max: number;
}

export const DEFAULTS: Config = {
  outbox_max: 1000,
  hold_max: 256,
  connect_timeout_ms: 10_000,
  request_timeout_ms: 10_000,
  backoff_base_ms: 250,
  backoff_cap_ms: 30_000,
  stable_ms: 10_000,
  heads_grace_ms: 1000,
  received_delay_ms: 250,
  fetch_limit: 200,
  internal_max: 10,
};

/** The longest wait a server can ask for, in `retry_after_ms` or `reconnect_in_ms`. */
export const ASKED_WAIT_MAX_MS = 60_000;

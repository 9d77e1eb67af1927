import { RestError } from "./rest";

const BASE_MS = 500;
const CAP_MS = 30_000;
const ASKED_MAX_MS = 60_000;

/** How long to wait after the n-th failure in a row, n from 0: full jitter, and not before the server allows it. */
export function retryIn(failures: number, error: unknown, random = Math.random()): number {
  const asked = error instanceof RestError ? Math.min(error.retryAfterMs, ASKED_MAX_MS) : 0;
  return asked + Math.floor(random * Math.min(CAP_MS, BASE_MS * 2 ** Math.min(failures, 20)));
}

import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { retryIn } from "../net/backoff";
import { type InboxEntry, type Page, RestError } from "../net/rest";
import { Inbox } from "./inbox";

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

const empty: Page<InboxEntry> = { items: [], next: null };

test("asked for again and again while the server is away, one reader goes on", async () => {
  let calls = 0;
  let away = true;
  const inbox = () => {
    calls += 1;
    return away ? Promise.reject(new RestError("overloaded", 503, "", 5_000)) : Promise.resolve(empty);
  };
  let complete = 0;
  const reader = new Inbox(
    { inbox },
    () => {},
    () => (complete += 1),
  );
  for (let i = 0; i < 5; i++) void reader.read();
  await vi.advanceTimersByTimeAsync(4_900);
  expect(calls).toBe(5);
  away = false;
  await vi.advanceTimersByTimeAsync(100_000);
  expect(calls).toBe(6);
  expect(complete).toBe(1);
});

test("a reader that was overtaken says nothing", async () => {
  const answers: ((page: Page<InboxEntry>) => void)[] = [];
  const inbox = () => new Promise<Page<InboxEntry>>((resolve) => answers.push(resolve));
  let complete = 0;
  const reader = new Inbox(
    { inbox },
    () => {},
    () => (complete += 1),
  );
  void reader.read();
  void reader.read();
  for (const answer of answers) answer(empty);
  await vi.advanceTimersByTimeAsync(0);
  expect(complete).toBe(1);
});

test("waits grow, are random, and respect the server", () => {
  expect(retryIn(0, null, 0.5)).toBe(250);
  expect(retryIn(3, null, 0.5)).toBe(2_000);
  expect(retryIn(99, null, 1)).toBe(30_000);
  expect(retryIn(0, new RestError("rate_limited", 429, "", 2_000), 0)).toBe(2_000);
});

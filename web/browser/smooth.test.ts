import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { launch, Person } from "./people";
import { Server } from "./server";

const MESSAGES = 10_000;
const TRIES = 3;

let server: Server;
let browser: Browser;
beforeAll(async () => {
  server = await Server.start();
  browser = await launch();
  await server.room("river", "alice", "bob", "eve");
  let sent = 0;
  const writer = async (user: string) => {
    while (sent < MESSAGES) {
      const number = ++sent;
      const words = "and what else there is to say about it ".repeat(number % 7);
      await server.say(user, "river", `message ${number} ${words}`);
    }
  };
  await Promise.all(Array.from({ length: 48 }, (_, i) => writer(i % 2 ? "bob" : "eve")));
}, 180_000);
afterAll(async () => {
  await browser?.close();
  await server?.stop();
});

test(`${MESSAGES} messages scroll and take typing without a task over 50 ms`, {
  timeout: 240_000,
}, async () => {
  const alice = await Person.at(browser, server, "alice");
  await alice.enter("river");
  const { page } = alice;
  await page.locator("[data-row]").first().waitFor();
  // The machine may be busy with something else; a slow page is slow every time.
  const tries: number[][] = [];
  for (let i = 0; i < TRIES; i++) {
    // At the end the page forgets all but some thousands.
    await loadAll(page);
    const stop = await watchTasks(page);
    await use(alice, server, i);
    const tasks = await stop();
    tries.push(tasks);
    console.log(`try ${i + 1}: ${describeTasks(tasks)}`);
    if (tasks.length === 0) break;
  }
  expect(tries.at(-1), "tasks over 50 ms in the last try").toEqual([]);
  await alice.leave();
});

async function loadAll(page: Page): Promise<void> {
  const list = page.locator(".list");
  const loading = await watchTasks(page);
  await expect
    .poll(
      async () => {
        await list.evaluate((el) => el.scrollTo(0, 0));
        return page.getByText("This is where the room begins").isVisible();
      },
      { timeout: 120_000, interval: 10 },
    )
    .toBe(true);
  console.log(`loading all: ${describeTasks(await loading())}`);
  const rows = await page.locator("li[data-key]").first().getAttribute("aria-setsize");
  expect(Number(rows)).toBeGreaterThanOrEqual(MESSAGES);
  expect(await page.locator("[data-row]").count()).toBeLessThan(150);
}

/** Scrolls up and down, by wheel and by leaps, then types and receives a message. */
async function use(alice: Person, server: Server, round: number): Promise<void> {
  const { page } = alice;
  const list = page.locator(".list");
  await list.hover();
  for (let i = 0; i < 40; i++) await page.mouse.wheel(0, 900);
  for (let i = 0; i < 20; i++) await page.mouse.wheel(0, -1500);
  const leap = (part: number) =>
    list.evaluate((el, part) => {
      el.scrollTop = el.scrollHeight * part;
      return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    }, part);
  for (const part of [0.5, 0.1, 0.9, 0.3]) await leap(part);
  await alice.composer.pressSequentially("Typing must never stutter, whatever the room holds. ");
  await leap(1);
  await server.say("bob", "river", `a new one ${round}`);
  await alice.sees(`a new one ${round}`);
  await alice.composer.pressSequentially("Sent.");
  const sent = await alice.composer.inputValue();
  await alice.composer.press("Enter");
  await alice.row(sent.trim()).last().waitFor();
}

/** Collects the durations of long tasks (over 50 ms) until called. */
async function watchTasks(page: Page): Promise<() => Promise<number[]>> {
  await page.evaluate(() => {
    const found: number[] = [];
    const observer = new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) found.push(Math.round(entry.duration));
    });
    observer.observe({ type: "longtask" });
    Object.assign(globalThis, { longTasks: { found, observer } });
  });
  return () =>
    page.evaluate(() => {
      const { found, observer } = (
        globalThis as unknown as { longTasks: { found: number[]; observer: PerformanceObserver } }
      ).longTasks;
      for (const entry of observer.takeRecords()) found.push(Math.round(entry.duration));
      observer.disconnect();
      return found;
    });
}

function describeTasks(tasks: number[]): string {
  return tasks.length === 0
    ? "no task over 50 ms"
    : `${tasks.length} tasks over 50 ms: ${tasks.join(", ")} ms`;
}

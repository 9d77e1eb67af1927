import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { launch, Person } from "./people";
import { Server } from "./server";

let server: Server;
let browser: Browser;
beforeAll(async () => {
  server = await Server.start();
  browser = await launch();
});
afterAll(async () => {
  await browser?.close();
  await server?.stop();
});

const hash = (page: Page) => page.evaluate(() => location.hash);
const members = async (room: string) =>
  (await server.call<{ items: { user: string }[] }>("owner", "GET", `/v1/rooms/${room}/members`)).items.map(
    (m) => m.user,
  );

test("a room that was left stays left, and can be entered again by its link", async () => {
  await server.room("lobby", "owner");
  const alice = await Person.at(browser, server, "alice");
  await alice.enter("lobby");
  await alice.page.getByRole("button", { name: "Members" }).click();
  await alice.page.getByRole("button", { name: "Leave this room" }).click();
  await alice.page.getByRole("heading", { name: /Good to see you/ }).waitFor();
  await expect.poll(() => hash(alice.page)).toBe("");
  await alice.page.reload();
  await alice.page.getByRole("heading", { name: /Good to see you/ }).waitFor();
  const link = alice.page.getByRole("link", { name: /lobby/ });
  await link.waitFor();
  expect(await members("lobby")).toEqual(["owner"]);
  await link.click();
  await alice.page.getByRole("heading", { level: 1, name: "lobby" }).waitFor();
  expect(await members("lobby")).toContain("alice");

  // Left on another device.
  await server.call("alice", "DELETE", "/v1/rooms/lobby/members/me");
  await alice.page.getByRole("alert").filter({ hasText: "lobby" }).waitFor();
  await expect.poll(() => hash(alice.page)).toBe("");
  await alice.page.getByRole("link", { name: /lobby/ }).click();
  await alice.page.getByRole("heading", { level: 1, name: "lobby" }).waitFor();
  await alice.leave();
});

test("a room that is deleted while it is open goes away and says so", async () => {
  await server.room("ruin", "owner", "alice");
  const alice = await Person.at(browser, server, "alice");
  await alice.enter("ruin");
  await alice.say("still here");
  await alice.hasStatus("still here", "sent");
  await server.call("owner", "DELETE", "/v1/rooms/ruin");
  await alice.page.getByRole("alert").filter({ hasText: "Somebody deleted ruin." }).waitFor();
  await expect.poll(() => alice.page.getByRole("link", { name: /ruin/ }).count()).toBe(0);
  await expect.poll(() => hash(alice.page)).toBe("");
  await alice.open("elsewhere");
  await alice.leave();
});

test("making a room asks for nothing that fails", async () => {
  const alice = await Person.at(browser, server, "alice");
  const failed: string[] = [];
  alice.page.on("response", (answer) => {
    if (answer.status() >= 400) failed.push(`${answer.status()} ${answer.url()}`);
  });
  await alice.enter("brand-new");
  await alice.say("first");
  await alice.hasStatus("first", "sent");
  expect(failed).toEqual([]);
  await alice.leave();
});

test("messages that could not be read are read when asked again", async () => {
  await server.room("fog", "alice");
  // Not made on the way: a room that is new to the list has the list read, and with it what could not be read.
  await server.room("mist", "alice");
  for (let i = 1; i <= 150; i++) await server.say("alice", "fog", `line ${i}`);
  const alice = await Person.at(browser, server, "alice");
  const { page } = alice;
  const refuse = "**/v1/rooms/fog/messages**";
  await page.route(refuse, (route) => route.fulfill({ status: 503, json: { code: "unavailable" } }));
  await alice.enter("fog");
  await page.getByText("The messages cannot be read at the moment.").waitFor();
  await page.unroute(refuse);
  await page.getByRole("button", { name: "Try again" }).click();
  await alice.sees(/^line 150$/);

  // The same at the lower end, after a jump into the past.
  let asked = 0;
  await page.route(/fog\/messages\?.*after=/, (route) => {
    asked += 1;
    return route.fulfill({ status: 503, json: { code: "unavailable" } });
  });
  await page.reload();
  await alice.sees(/^line 150$/);
  await page.goto(`${server.url}/#/mist`);
  await page.goto(`${server.url}/#/fog/10`);
  await alice.sees(/^line 9$/);
  const below = page.getByText("Later messages cannot be read at the moment.");
  await expect
    .poll(async () => {
      await page.locator(".list").evaluate((el) => el.scrollTo(0, el.scrollHeight));
      return below.isVisible();
    })
    .toBe(true);
  expect(asked).toBe(1);
  await page.unroute(/fog\/messages\?.*after=/);
  await page.getByRole("button", { name: "Try again" }).click();
  await expect.poll(() => below.count()).toBe(0);
  await alice.leave();
});

test("a room that was left in the middle of its history opens at its end again", async () => {
  await server.room("scroll", "alice");
  for (let i = 1; i <= 400; i++) await server.say("alice", "scroll", `line ${i}`);
  const alice = await Person.at(browser, server, "alice");
  await alice.enter("scroll");
  await alice.sees(/^line 400$/);
  await alice.page.goto(`${server.url}/#/scroll/10`);
  await alice.sees(/^line 9$/);
  await alice.open("elsewhere");
  await alice.open("scroll");
  await alice.sees(/^line 400$/);
  await alice.leave();
});

test("the focus stays where it is while the list is scrolled, and after a deletion", async () => {
  await server.room("tower", "alice");
  for (let i = 1; i <= 300; i++) await server.say("alice", "tower", `line ${i}`);
  const alice = await Person.at(browser, server, "alice");
  await alice.enter("tower");
  const last = alice.row(/^line 300$/);
  await last.focus();
  const list = alice.page.locator(".list");
  const hasFocus = (text: RegExp) => () =>
    alice.row(text).evaluate((el) => el === document.activeElement && el.tabIndex === 0);
  for (let i = 0; i < 5; i++) {
    await list.evaluate((el) => el.scrollTo(0, 0));
    await alice.page.waitForTimeout(200);
  }
  await alice.sees(/^line 1$/);
  await expect.poll(hasFocus(/^line 300$/)).toBe(true);
  await alice.page.keyboard.press("ArrowUp");
  await expect.poll(hasFocus(/^line 299$/)).toBe(true);
  await expect
    .poll(() => alice.row(/^line 299$/).evaluate((el) => el.getBoundingClientRect().top))
    .toBeGreaterThan(0);

  await alice
    .row(/^line 299$/)
    .getByRole("button", { name: "Delete" })
    .press("Enter");
  await alice.page.getByRole("dialog").getByRole("button", { name: "Delete" }).press("Enter");
  await expect.poll(hasFocus(/^This message was deleted.$/)).toBe(true);
  await alice.leave();
});

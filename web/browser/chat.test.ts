import type { Browser } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { launch, Person } from "./people";
import { Server } from "./server";

const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; manifest-src 'self'";

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

test("the page comes with a strict policy", async () => {
  for (const path of ["/", "/docs"]) {
    const answer = await fetch(server.url + path);
    expect(answer.headers.get("content-security-policy")).toBe(POLICY);
    expect(await answer.text()).not.toMatch(/<style|style=|<script>|https?:\/\//);
  }
});

test("two people talk: write, reply, react, edit, delete", async () => {
  const alice = await Person.at(browser, server, "alice");
  const bob = await Person.at(browser, server, "bob");
  await alice.enter("kitchen");
  await bob.enter("kitchen");

  await alice.say("Coffee is ready");
  await bob.sees("Coffee is ready");
  await bob.say("On my way");
  await alice.sees("On my way");

  await bob.act("Coffee is ready", "Reply");
  await bob.say("How strong?");
  await alice
    .row("How strong?")
    .getByRole("button", { name: /alice.*Coffee is ready/ })
    .waitFor();

  await bob.act("Coffee is ready", "Add a reaction");
  await bob.page.getByRole("button", { name: "React with 👍" }).click();
  await alice.row("Coffee is ready").getByRole("button", { name: "👍 1, by bob" }).click();
  await bob.row("Coffee is ready").getByRole("button", { name: "👍 2, by bob, alice" }).waitFor();
  await alice
    .row("Coffee is ready")
    .getByRole("button", { name: /👍 2, by bob/ })
    .click();
  await bob.row("Coffee is ready").getByRole("button", { name: "👍 1, by bob", exact: true }).waitFor();

  await alice.act("Coffee is ready", "Edit");
  await alice.say("Tea is ready");
  await bob.sees("Tea is ready");
  await bob.row("Tea is ready").getByText("(edited)").waitFor();

  await alice.act("Tea is ready", "Delete");
  await alice.page.getByRole("dialog").getByRole("button", { name: "Delete" }).click();
  await bob.sees("This message was deleted.");
  expect(await bob.page.getByText("Tea is ready").count()).toBe(0);

  await alice.page.reload();
  await alice.sees("On my way");
  expect(await alice.texts()).toEqual(["This message was deleted.", "On my way", "How strong?"]);
  await alice.leave();
  await bob.leave();
});

test("a message goes from sent to delivered to seen", async () => {
  const alice = await Person.at(browser, server, "alice");
  const bob = await Person.at(browser, server, "bob");
  await alice.enter("post");
  await alice.say("Is anybody there?");
  await alice.hasStatus("Is anybody there?", "sent");

  await bob.enter("post");
  await bob.open("elsewhere");
  await alice.say("Are you still there?");
  await alice.hasStatus("Are you still there?", "delivered");
  await bob.page.getByRole("link", { name: /post.*1 unread/ }).waitFor();
  await bob.open("post");
  await alice.hasStatus("Are you still there?", "seen");
  await alice.leave();
  await bob.leave();
});

test("one sees who is here and who is typing", async () => {
  const alice = await Person.at(browser, server, "alice");
  const bob = await Person.at(browser, server, "bob");
  await alice.enter("desk");
  await bob.enter("desk");
  await alice.page.getByText("2 online").waitFor();
  await bob.composer.pressSequentially("hm");
  await alice.page.getByText("bob is typing").waitFor();
  await bob.say("hmm");
  await alice.page.getByText("bob is typing").waitFor({ state: "detached" });

  await alice.page.getByRole("button", { name: "Members" }).click();
  await alice.page.getByRole("complementary", { name: "Members" }).getByText("bob").waitFor();
  await bob.leave();
  await alice.page.getByText("1 online").waitFor();
  await alice.leave();
});

test("a direct message appears at the other side", async () => {
  const alice = await Person.at(browser, server, "alice");
  const dora = await Person.at(browser, server, "dora");
  await alice.enter("hall");
  await dora.enter("hall");
  await alice.page.getByRole("button", { name: "Members" }).click();
  await alice.page.getByRole("button", { name: "Message dora" }).click();
  await alice.page.getByRole("heading", { level: 1, name: "dora" }).waitFor();
  await alice.say("Only for you");
  await dora.page.getByRole("link", { name: /alice.*Only for you.*1 unread/ }).click();
  await dora.sees("Only for you");
  await alice.leave();
  await dora.leave();
});

test("what people write is only text", async () => {
  const alice = await Person.at(browser, server, "alice");
  const bob = await Person.at(browser, server, "bob");
  await alice.enter("lab");
  await bob.enter("lab");
  const attacks = [
    '<img src=x onerror="alert(1)">',
    "<script>alert(2)</script>",
    "javascript:alert(3)",
    '"><svg onload=alert(4)>',
    '<a href="javascript:alert(5)">click</a>',
  ];
  for (const attack of attacks) await alice.say(attack);
  await alice.say("https://darda.example/a?b=c, javascript:alert(6) and more");
  await bob.sees("and more");
  expect(await bob.texts()).toEqual([
    ...attacks,
    "https://darda.example/a?b=c, javascript:alert(6) and more",
  ]);
  const links = bob.page.locator("[data-row] a");
  expect(await links.count()).toBe(1);
  expect(await links.first().getAttribute("href")).toBe("https://darda.example/a?b=c");
  expect(await links.first().getAttribute("rel")).toBe("noopener noreferrer");
  expect(await bob.page.locator("[data-row] img, [data-row] script").count()).toBe(0);
  await alice.leave();
  await bob.leave();
});

test("history is read back to the first message, and search jumps into it", async () => {
  await server.room("archive", "alice", "bob");
  for (let i = 1; i <= 650; i++)
    await server.say("bob", "archive", i === 17 ? "a walrus at dawn" : `line ${i}`);
  const alice = await Person.at(browser, server, "alice");
  await alice.enter("archive");
  await alice.sees(/^line 650$/);
  const list = alice.page.locator(".list");
  await expect
    .poll(
      async () => {
        await list.evaluate((el) => el.scrollTo(0, 0));
        return alice.page.getByText("This is where the room begins").isVisible();
      },
      { timeout: 30_000 },
    )
    .toBe(true);
  await alice.sees(/^line 1$/);
  expect((await alice.texts()).slice(0, 3)).toEqual(["line 1", "line 2", "line 3"]);

  await alice.page.getByRole("button", { name: "Newest messages" }).click();
  await alice.sees(/^line 650$/);
  await alice.page.reload();
  await alice.sees(/^line 650$/);
  await alice.page.keyboard.press("Control+k");
  await alice.page.getByLabel("Search messages").fill("walrus");
  await alice.page.getByRole("link", { name: /a walrus at dawn/ }).click();
  await alice.sees("a walrus at dawn");
  await expect
    .poll(() => alice.row("a walrus at dawn").evaluate((el) => el === document.activeElement))
    .toBe(true);
  expect(await alice.texts()).toContain("line 16");

  await alice.say("back at the end");
  await alice.sees("back at the end");
  await alice.sees(/^line 650$/);
  await alice.leave();
});

test("all of it works by keyboard", async () => {
  const alice = await Person.at(browser, server, "alice");
  await alice.enter("keys");
  await alice.say("one");
  await alice.say("two");
  await alice.hasStatus("two", "sent");
  await alice.composer.press("ArrowUp");
  await expect.poll(() => alice.composer.inputValue()).toBe("two");
  await alice.page.keyboard.press("Escape");
  await expect.poll(() => alice.composer.inputValue()).toBe("");

  await alice.row("two").focus();
  await alice.page.keyboard.press("ArrowUp");
  await expect.poll(() => alice.row("one").evaluate((el) => el === document.activeElement)).toBe(true);
  await alice.page.keyboard.press("Tab");
  await alice.page.keyboard.press("Enter");
  await alice.page.getByRole("button", { name: "React with 👍" }).waitFor();
  await alice.page.keyboard.press("Escape");
  await alice.page.getByRole("button", { name: "React with 👍" }).waitFor({ state: "detached" });
  await alice.leave();
});

test("on a phone the rooms are a drawer", async () => {
  const alice = await Person.at(browser, server, "alice", {
    viewport: { width: 390, height: 780 },
    isMobile: true,
    hasTouch: true,
  });
  await alice.enter("pocket");
  const rooms = alice.page.getByRole("navigation", { name: "Rooms" });
  await rooms.waitFor({ state: "hidden" });
  await alice.say("from my phone");
  await alice.sees("from my phone");
  await alice.page.getByRole("button", { name: "Show rooms" }).click();
  await rooms.waitFor();
  await alice.page.keyboard.press("Escape");
  await rooms.waitFor({ state: "hidden" });
  const wide = await alice.page.evaluate(() => document.documentElement.scrollWidth);
  expect(wide).toBeLessThanOrEqual(390);
  await alice.leave();
});

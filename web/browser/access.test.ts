import axe from "axe-core";
import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { launch, Person } from "./people";
import { Server } from "./server";

let server: Server;
let browser: Browser;
beforeAll(async () => {
  server = await Server.start();
  browser = await launch();
  await server.room("general", "alice", "bob");
  const seq = await server.say("bob", "general", "Look at https://darda.example/ please");
  await server.say("bob", "general", "A longer answer to what was said before", { reply_to: seq });
  await server.say("alice", "general", "Thank you");
});
afterAll(async () => {
  await browser?.close();
  await server?.stop();
});

const looks = [
  { name: "light desktop", colorScheme: "light", viewport: { width: 1200, height: 800 } },
  { name: "dark desktop", colorScheme: "dark", viewport: { width: 1200, height: 800 } },
  { name: "light phone", colorScheme: "light", viewport: { width: 390, height: 780 } },
  { name: "dark phone", colorScheme: "dark", viewport: { width: 390, height: 780 } },
] as const;

test.each(looks)("axe finds nothing: $name", async ({ colorScheme, viewport }) => {
  const alice = await Person.at(browser, server, "alice", { colorScheme, viewport, reducedMotion: "reduce" });
  const { page } = alice;
  const line = `A line of my own in ${colorScheme} ${viewport.width}`;
  await page.goto(server.url);
  await page.getByLabel("Your name").waitFor();
  await clean(page, "sign-in");

  await alice.enter();
  await page.getByRole("heading", { name: /Good to see you/ }).waitFor({ state: "attached" });
  await clean(page, "no room");

  await alice.open("general");
  await alice.say(line);
  await alice.hasStatus(line, "sent");
  await alice.row("A longer answer").focus();
  await clean(page, "room");

  await alice.act("A longer answer", "Add a reaction");
  await page.getByRole("button", { name: "React with 🎉" }).waitFor();
  await clean(page, "picker");
  await page.getByRole("button", { name: "React with 🎉" }).click();
  await alice.row("A longer answer").getByRole("button", { name: "🎉 1, by alice" }).waitFor();
  await clean(page, "reaction");
  await alice.row("A longer answer").getByRole("button", { name: "🎉 1, by alice" }).click();

  await alice.act(line, "Delete");
  await page.getByRole("dialog").waitFor();
  await clean(page, "dialog");
  await page.getByRole("button", { name: "Keep it" }).click();

  await page.getByRole("button", { name: "Members" }).click();
  await page.getByRole("button", { name: "Message bob" }).waitFor();
  await clean(page, "members");
  await page.getByRole("button", { name: "Close the members" }).click();

  await page.getByRole("button", { name: "Search", exact: true }).click();
  await page.getByLabel("Search messages").fill("answer");
  await page.getByRole("link", { name: /longer answer/ }).waitFor();
  await clean(page, "search");
  await page.getByRole("button", { name: "Close the search" }).click();

  await alice.open("a-new-place");
  await page.getByText("Nothing here yet").waitFor();
  await clean(page, "empty room");

  await page.goto(`${server.url}/docs`);
  await page.getByRole("heading", { level: 1 }).waitFor();
  expect(await page.locator(".card").count()).toBeGreaterThan(5);
  await clean(page, "docs");
  await alice.leave();
});

async function clean(page: Page, where: string): Promise<void> {
  await page.evaluate(axe.source);
  const findings = await page.evaluate(async () => {
    const axe = (globalThis as unknown as { axe: typeof import("axe-core") }).axe;
    const { violations } = await axe.run(document);
    return violations.map((v) => `${v.id}: ${v.help} ${v.nodes.map((n) => n.target.join(" ")).join(", ")}`);
  });
  expect(findings, where).toEqual([]);
}

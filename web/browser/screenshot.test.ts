import { mkdtempSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Browser } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { launch, Person } from "./people";
import { Server } from "./server";

/** `npm run screenshot` puts the pictures into the documentation. */
const folder = process.env.DARDA_SCREENSHOTS ?? mkdtempSync(join(tmpdir(), "darda-pictures-"));

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

test("the page looks like this", async () => {
  const everybody = ["alice", "maya", "tomasz", "jun.park", "lena"];
  for (const room of ["general", "design", "incidents", "random"]) await server.room(room, ...everybody);
  await server.call("alice", "PATCH", "/v1/rooms/general", { topic: "What everybody should know" });
  const say = (user: string, text: string, more?: object) => server.say(user, "general", text, more);
  await say("maya", "Good morning! The staging cluster runs the new chart since last night.");
  const rollout = await say(
    "tomasz",
    "The rollout took 40 seconds. I watched the gap counter all the time: zero.",
  );
  await say("alice", "Lovely. The release notes wait for a reader: https://git.example.org/darda/notes");
  await say("alice", "Please be picky.");
  const question = await say("jun.park", "Read them on the train. Do we promise one order across rooms?");
  await say("alice", "Only within a room. I will say so in the first paragraph.", { reply_to: question });
  const lunch = await say(
    "maya",
    "I killed the primary three times over lunch. Everything acknowledged was still there, and all clients came back by themselves.",
  );
  await server.say("lena", "design", "New empty states are in the file");
  await server.say("lena", "design", "Dark as well");
  await server.say("tomasz", "incidents", "All green since Monday");
  await server.say("jun.park", "random", "Who took the good coffee?");

  const looks = {
    viewport: { width: 1280, height: 800 },
    deviceScaleFactor: 2,
    reducedMotion: "reduce",
  } as const;
  const alice = await Person.at(browser, server, "alice", looks);
  const maya = await Person.at(browser, server, "maya");
  const tomasz = await Person.at(browser, server, "tomasz");
  for (const person of [alice, maya, tomasz]) await person.enter("general");
  await maya.act("The rollout took", "Add a reaction");
  await maya.page.getByRole("button", { name: "React with 🎉" }).click();
  for (const [person, emoji] of [
    [tomasz, "🎉"],
    [alice, "🎉"],
    [alice, "👀"],
  ] as const) {
    await person.act("I killed the primary", "Add a reaction");
    await person.page.getByRole("button", { name: `React with ${emoji}` }).click();
  }
  await tomasz.act("I killed the primary", "Reply");
  await tomasz.say("Then I vote for shipping today.");
  await alice.sees("Then I vote");
  await alice.say("Shipping it is. Thank you all!");
  await alice.hasStatus("Shipping it is", "seen");
  await server.say("maya", "random", "It was me, sorry");
  await alice.page.getByRole("link", { name: /random.*2 unread/ }).waitFor();
  await maya.composer.pressSequentially("cake");
  await alice.page.getByText("maya is typing").waitFor();
  await alice.page.getByRole("button", { name: "🎉 1, by maya" }).waitFor();
  expect([rollout, lunch].every((seq) => seq > 0)).toBe(true);

  await alice.composer.focus();
  await alice.page.mouse.move(640, 30);
  await picture(alice, "page.png");
  await alice.page.emulateMedia({ colorScheme: "dark" });
  await alice.page.getByRole("button", { name: "Members" }).click();
  await alice.page.getByRole("button", { name: "Message maya" }).waitFor();
  await picture(alice, "page-dark.png");
  await alice.page.getByRole("button", { name: "Close the members" }).click();
  await alice.page.emulateMedia({ colorScheme: "light" });
  await alice.page.setViewportSize({ width: 390, height: 780 });
  await alice.page.mouse.move(200, 30);
  await picture(alice, "page-phone.png");
  for (const person of [alice, maya, tomasz]) await person.leave();
});

async function picture(person: Person, name: string): Promise<void> {
  const path = join(folder, name);
  await person.page.screenshot({ path });
  expect(statSync(path).size).toBeGreaterThan(20_000);
}

import type { Browser, Locator } from "playwright-core";
import { afterAll, beforeAll, expect, test } from "vitest";
import { launch, Person, rowIn } from "./people";
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

/** The line that says so, also to a screen reader. */
function away(person: Person): Locator {
  return person.page.getByRole("status").filter({ hasText: "Connection lost" });
}

test("the server is killed and comes back: nothing is lost, doubled or out of order", async () => {
  const alice = await Person.at(browser, server, "alice");
  const bob = await Person.at(browser, server, "bob");
  await alice.enter("harbour");
  await bob.enter("harbour");
  await alice.say("before");
  await bob.sees("before");

  await server.kill();
  await away(alice).waitFor();
  for (const text of ["while away 1", "while away 2", "while away 3"]) await alice.say(text);
  await alice.hasStatus("while away 3", "sending");
  await bob.say("me too");
  await server.start();

  for (const person of [alice, bob])
    for (const text of ["while away 1", "while away 2", "while away 3", "me too"]) await person.sees(text);
  await alice.hasStatus("while away 3", "seen");
  await away(alice).waitFor({ state: "detached" });
  const stored = await server.texts("alice", "harbour");
  expect(stored.filter((t) => t.startsWith("while"))).toEqual([
    "while away 1",
    "while away 2",
    "while away 3",
  ]);
  expect([...stored].sort()).toEqual(["before", "me too", "while away 1", "while away 2", "while away 3"]);
  expect(await alice.texts()).toEqual(stored);
  expect(await bob.texts()).toEqual(stored);
  await alice.leave();
  await bob.leave();
});

test("unsent messages survive the tab", async () => {
  const alice = await Person.at(browser, server, "alice");
  await alice.enter("island");
  await alice.say("kept 0");
  await alice.hasStatus("kept 0", "sent");
  await server.kill();
  await away(alice).waitFor();
  await alice.say("kept 1");
  await alice.say("kept 2");
  await alice.hasStatus("kept 2", "sending");
  await alice.page.goto("about:blank");
  await server.start();
  await alice.page.goto(`${server.url}/#/island`);
  await alice.hasStatus("kept 2", "sent");
  expect(await server.texts("alice", "island")).toEqual(["kept 0", "kept 1", "kept 2"]);
  expect(await alice.texts()).toEqual(["kept 0", "kept 1", "kept 2"]);
  await alice.leave();
});

test("messages written without a server are sent after a reload, each once, by two tabs", async () => {
  const alice = await Person.at(browser, server, "alice");
  await alice.enter("raft");
  await alice.say("first");
  await alice.hasStatus("first", "sent");
  await server.kill();
  await away(alice).waitFor();
  await alice.say("second");
  await alice.say("third");
  await alice.hasStatus("third", "sending");
  await server.start();
  // Both tabs find the same unsent messages and both send them.
  await alice.page.reload();
  const other = await alice.tab("raft");
  for (const text of ["first", "second", "third"]) {
    await alice.sees(text);
    await rowIn(other, text).waitFor();
  }
  await alice.hasStatus("third", "sent");
  expect(await server.texts("alice", "raft")).toEqual(["first", "second", "third"]);
  expect(await alice.texts()).toEqual(["first", "second", "third"]);
  expect(await alice.texts(other)).toEqual(["first", "second", "third"]);
  expect(
    await alice.page.evaluate(() => Object.keys(localStorage).filter((k) => k.includes("outbox"))),
  ).toEqual([]);
  await alice.leave();
});

test("what a closed tab left behind is sent by another one", async () => {
  const alice = await Person.at(browser, server, "alice");
  await alice.enter("relay");
  const other = await alice.tab("relay");
  await alice.say("hello");
  await rowIn(other, "hello").waitFor();
  await server.kill();
  await away(alice).waitFor();
  await alice.say("left behind");
  await alice.hasStatus("left behind", "sending");
  await alice.page.close();
  await server.start();
  await rowIn(other, "left behind").waitFor();
  expect(await server.texts("alice", "relay")).toEqual(["hello", "left behind"]);
  await alice.leave();
});

test("what the server refuses for good is shown, and can be tried again or discarded", async () => {
  const alice = await Person.at(browser, server, "alice");
  await alice.enter("gate");
  await alice.say("hello");
  await alice.hasStatus("hello", "sent");
  await alice.composer.fill("x".repeat(20_000));
  await alice.composer.press("Enter");
  await alice.page.getByText("the server takes up to").waitFor();

  // A page that did not check would have left this behind.
  await alice.page.evaluate(() => {
    const id = "0198c0de-0000-7000-8000-000000000001";
    const act = { type: "send", id, room: "gate", text: `too long ${"x".repeat(20_000)}` };
    localStorage.setItem(`darda:outbox:alice:${id}`, JSON.stringify(act));
  });
  await alice.page.reload();
  await alice.hasStatus("too long", "failed");
  await alice.row("too long").getByRole("button", { name: "Try again" }).click();
  await alice.hasStatus("too long", "failed");
  await alice.row("too long").getByRole("button", { name: "Discard" }).click();
  await alice.row("too long").waitFor({ state: "detached" });
  await alice.composer.fill("");
  await alice.say("goodbye");
  await alice.hasStatus("goodbye", "sent");
  await alice.page.reload();
  await alice.sees("goodbye");
  expect(await alice.texts()).toEqual(["hello", "goodbye"]);
  await alice.leave();
});

test("what is being written survives a reload", async () => {
  const alice = await Person.at(browser, server, "alice");
  await alice.enter("desk");
  await alice.composer.pressSequentially("half a thought");
  await alice.page.reload();
  await expect.poll(() => alice.composer.inputValue()).toBe("half a thought");
  await alice.leave();
});

test("the server is restarted: it says good-bye, and nothing is lost, doubled or out of order", async () => {
  const alice = await Person.at(browser, server, "alice");
  const bob = await Person.at(browser, server, "bob");
  await alice.enter("quay");
  await bob.enter("quay");
  const frames: string[] = [];
  await alice.page.reload();
  alice.page.on("websocket", (socket) =>
    socket.on("framereceived", ({ payload }) => frames.push(String(payload))),
  );
  await alice.page.reload();
  await alice.say("text 0");
  await bob.sees("text 0");

  const ended = server.terminate();
  const written = ["text 0"];
  for (let i = 1; i <= 12; i++) {
    written.push(`text ${i}`);
    await alice.say(`text ${i}`);
    await alice.page.waitForTimeout(100);
  }
  await ended;
  expect(frames.some((frame) => frame.includes('"goaway"'))).toBe(true);
  await server.start();
  await alice.hasStatus("text 12", "seen");
  await bob.sees("text 12");
  expect(await server.texts("alice", "quay")).toEqual(written);
  expect(await alice.texts()).toEqual(written);
  expect(await bob.texts()).toEqual(written);
  await alice.leave();
  await bob.leave();
});

test("a browser that keeps nothing can chat, and is told what that means", async () => {
  const alice = await Person.at(browser, server, "alice");
  await alice.context.addInitScript(() => {
    for (const name of ["localStorage", "sessionStorage"])
      Object.defineProperty(window, name, {
        get() {
          throw new DOMException("forbidden", "SecurityError");
        },
      });
  });
  await alice.enter("cave");
  await alice.say("hello");
  await alice.hasStatus("hello", "sent");
  await server.kill();
  await away(alice).waitFor();
  await alice.say("only in memory");
  const told = alice.page.getByRole("alert").filter({ hasText: "does not let Darda keep" });
  await told.waitFor();
  await server.start();
  await alice.hasStatus("only in memory", "sent");
  await told.waitFor({ state: "detached" });
  expect(await server.texts("alice", "cave")).toEqual(["hello", "only in memory"]);
  await alice.leave();
});

test("what was refused in a room that is not in the list is shown until it is discarded", async () => {
  const alice = await Person.at(browser, server, "alice");
  await alice.enter("pier");
  const room = crypto.randomUUID();
  await alice.page.evaluate((room) => {
    const id = "0198c0de-0000-7000-8000-000000000002";
    const act = { type: "send", id, room, text: "for nobody" };
    localStorage.setItem(`darda:outbox:alice:${id}`, JSON.stringify(act));
  }, room);
  await alice.page.reload();
  const unsent = alice.page.getByRole("region", { name: "Not sent" });
  await unsent.getByText("for nobody").waitFor();

  const sent: string[] = [];
  alice.page.on("websocket", (socket) => socket.on("framesent", ({ payload }) => sent.push(String(payload))));
  await alice.page.reload();
  await unsent.getByText("for nobody").waitFor();
  await alice.say("something else");
  await alice.hasStatus("something else", "sent");
  expect(sent.filter((frame) => frame.includes("for nobody"))).toEqual([]);
  await unsent.getByRole("button", { name: "Discard" }).click();
  await unsent.waitFor({ state: "detached" });
  await alice.page.reload();
  await alice.sees("something else");
  expect(await unsent.count()).toBe(0);
  await alice.leave();
});

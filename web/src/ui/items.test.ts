import { expect, test } from "vitest";
import { Room } from "../app/room";
import type { Message } from "../timeline/timeline";
import { itemsOf } from "./items";

function room(messages: Message[], unread = 0, read = 0): Room {
  const info = { id: "r", kind: "public", name: "r", members: 2, head: 9, role: "member" } as const;
  const made = new Room("r", { room: info, last: null, unread, read, received: 9 }, "me");
  made.timeline.show(made.timeline.reading(), messages, { atStart: true, atEnd: true });
  return made;
}
function message(seq: number, from: string, at: string): Message {
  return { room: "r", seq, id: `m${seq}`, from, at, text: "x", deleted: false, reactions: [] };
}
function kinds(made: Room): string[] {
  return itemsOf(made, "me").map((i) => ("follows" in i && i.follows ? `${i.kind}+` : i.kind));
}

test("neighbours of one person within five minutes are drawn together, under a line per day", () => {
  const made = room([
    message(1, "bob", "2026-11-20T12:00:00.000Z"),
    message(2, "bob", "2026-11-20T12:01:00.000Z"),
    message(3, "eve", "2026-11-20T12:02:00.000Z"),
    message(4, "eve", "2026-11-20T12:30:00.000Z"),
    message(5, "eve", "2026-11-22T12:30:00.000Z"),
  ]);
  expect(kinds(made)).toEqual([
    "start",
    "day",
    "message",
    "message+",
    "message",
    "message",
    "day",
    "message",
  ]);
});

test("what is new is marked once, before the first message of somebody else", () => {
  const made = room([1, 2, 3].map((seq) => message(seq, "bob", "2026-11-20T12:00:00.000Z")));
  made.newAfter.value = 1;
  expect(kinds(made)).toEqual(["start", "day", "message", "new", "message", "message+"]);
});

test("unsent messages stand last, and a settled one never stands twice", () => {
  const made = room([message(1, "bob", "2026-11-20T12:00:00.000Z")]);
  made.submitted({ type: "send", id: "m2", room: "r", text: "hi" }, "2026-11-20T12:00:01.000Z");
  expect(kinds(made)).toEqual(["start", "day", "message", "unsent"]);
  made.acked("m2", "2026-11-20T12:00:01.000Z", false);
  expect(kinds(made)).toEqual(["start", "day", "message", "unsent"]);
  made.apply({
    room: "r",
    seq: 10,
    prev: 9,
    at: "2026-11-20T12:00:01.000Z",
    from: "me",
    kind: "message",
    id: "m2",
    text: "hi",
  });
  expect(kinds(made)).toEqual(["start", "day", "message", "message"]);
});

test("keys are unique and stay the same when a message is settled", () => {
  const made = room([message(1, "bob", "2026-11-20T12:00:00.000Z")]);
  made.submitted({ type: "send", id: "m2", room: "r", text: "hi" }, "2026-11-20T12:00:01.000Z");
  const before = itemsOf(made, "me").map((i) => i.key);
  expect(new Set(before).size).toBe(before.length);
  expect(before.at(-1)).toBe("m2");
});

test("my own acts show before they are settled", () => {
  const made = room([message(1, "me", "2026-11-20T12:00:00.000Z")]);
  made.submitted({ type: "edit", id: "e", room: "r", seq: 1, text: "better" }, "");
  made.submitted({ type: "react", id: "f", room: "r", seq: 1, emoji: "👍", on: true }, "");
  const first = made.timeline.messages[0] as Message;
  expect(made.withActs(first, made.acts())).toMatchObject({
    text: "better",
    reactions: [{ emoji: "👍", users: ["me"] }],
  });
  made.failed("e", "forbidden", "no");
  expect(made.withActs(first, made.acts()).text).toBe("x");
});

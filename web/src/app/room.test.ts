import { expect, test } from "vitest";
import type { LogEvent } from "../engine/frames";
import type { InboxEntry } from "../net/rest";
import { Room } from "./room";

const at = "2026-11-21T11:00:00.000Z";
/** A room that was read up to 6 of 8; message 8 is the last, and unread. */
function room(change: Partial<InboxEntry> = {}): Room {
  const info = { id: "r", kind: "public", name: "r", members: 3, head: 8, role: "member" } as const;
  const last = { room: "r", seq: 8, id: "m8", from: "bob", at, text: "x", deleted: false, reactions: [] };
  return new Room("r", { room: info, last, unread: 1, read: 6, received: 8, ...change }, "me");
}
function said(seq: number, from = "bob"): LogEvent {
  return { room: "r", seq, prev: seq - 1, at, from, kind: "message", id: `m${seq}`, text: `t${seq}` };
}
function member(seq: number, user: string, change: string): LogEvent {
  return { room: "r", seq, prev: seq - 1, at, from: user, kind: "member", user, change };
}
function changed(seq: number, target: number, text?: string): LogEvent {
  const base = { room: "r", seq, prev: seq - 1, at, from: "bob", id: `c${seq}`, target };
  return text === undefined ? { ...base, kind: "delete" } : { ...base, kind: "edit", text };
}

test("the line in the list follows an edit and a deletion of the last message", () => {
  const made = room();
  made.apply(changed(9, 8, "better"));
  expect(made.last.value?.text).toBe("better");
  made.apply(changed(10, 7, "another one"));
  expect(made.last.value?.text).toBe("better");
  made.apply(changed(11, 8));
  expect(made.last.value).toMatchObject({ text: null, deleted: true });
});

test("what was read elsewhere while this page was away is not counted as unread", () => {
  const made = room();
  made.subscribed(12, 3, 10);
  expect(made.unread.value).toBe(0);
  for (const seq of [9, 10, 11, 12]) made.apply(said(seq));
  expect(made.unread.value).toBe(2);
  made.receipt("me", 12, 11);
  expect(made.unread.value).toBe(1);
  made.receipt("me", 12, 9);
  expect(made.unread.value).toBe(1);
  made.receipt("me", 12, 12);
  expect(made.unread.value).toBe(0);
});

test("a message of one's own, written elsewhere, reads nothing", () => {
  const made = room();
  made.apply(said(9));
  made.apply(said(10, "me"));
  expect(made.unread.value).toBe(2);
  expect(made.readTo).toBe(6);
});

test("who joined before the members were counted is not counted again", () => {
  const made = room();
  made.subscribed(10, 5, 6);
  made.apply(member(9, "eve", "joined"));
  made.apply(member(10, "dan", "joined"));
  expect(made.info.value.members).toBe(5);
  made.apply(member(11, "dan", "left"));
  made.apply(member(12, "bob", "role"));
  expect(made.info.value.members).toBe(4);
});

test("leaving is remembered until the person is back", () => {
  const made = room();
  made.apply(member(9, "me", "left"));
  expect(made.gone).toBe("left");
  made.apply(member(10, "me", "joined"));
  expect(made.gone).toBe(null);
  const older = room();
  older.apply(member(5, "me", "removed"));
  expect(older.gone).toBe(null);
});

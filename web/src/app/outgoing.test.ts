import { expect, test } from "vitest";
import type { Act } from "../engine/frames";
import { Drafts } from "../net/drafts";
import { Store } from "../net/storage";
import { Outgoing } from "./outgoing";
import { Room } from "./room";

function nowhere(): Storage {
  throw new Error("SecurityError");
}
function room(id: string): Room {
  const info = { id, kind: "public", name: id, members: 1, head: 0, role: "owner" } as const;
  return new Room(id, { room: info, last: null, unread: 0, read: 0, received: 0 }, "me");
}
/** The same person again and again, as after a reload. */
function world() {
  const drafts = new Drafts("me", new Store(nowhere));
  const rooms = new Map<string, Room>();
  const submitted: string[] = [];
  const start = () => {
    const outgoing = new Outgoing(drafts, () => rooms);
    const submit = (act: Act) => void submitted.push(act.id);
    outgoing.sender = { submit, forget: () => {}, position: () => 0 };
    return outgoing;
  };
  return { rooms, submitted, start };
}
const act: Act = { type: "send", id: "a1", room: "r", text: "hi" };
const refused = { state: "failed", code: "forbidden", message: "no" } as const;

test("what was refused for good is not sent again by a reload, but by its user", () => {
  const { rooms, submitted, start } = world();
  rooms.set("r", room("r"));
  const before = start();
  before.submit(act);
  expect(start().due()).toEqual([act]);
  before.fares("a1", refused);

  const after = start();
  expect(after.due()).toEqual([]);
  const again = room("r");
  rooms.set("r", again);
  after.entered(again);
  after.adopt();
  expect(again.unsent()).toMatchObject([{ act, state: "failed", failure: { code: "forbidden" } }]);
  expect(submitted).toEqual(["a1"]);
  after.retry("a1");
  expect(submitted).toEqual(["a1", "a1"]);
  expect(again.unsent()).toMatchObject([{ state: "sending" }]);
  expect(start().due()).toEqual([act]);
});

test("what was refused in a room that is not in the list is told and can be discarded", () => {
  const { rooms, start } = world();
  const outgoing = start();
  outgoing.submit(act);
  expect(outgoing.stranded.value).toEqual([]);
  outgoing.fares("a1", refused);
  expect(outgoing.stranded.value).toMatchObject([{ act, failure: { message: "no" } }]);
  const made = room("r");
  rooms.set("r", made);
  outgoing.entered(made);
  expect(outgoing.stranded.value).toEqual([]);
  rooms.delete("r");
  outgoing.left("r");
  expect(outgoing.stranded.value.length).toBe(1);
  outgoing.discard("a1");
  expect(outgoing.stranded.value).toEqual([]);
  expect(start().due()).toEqual([]);
});

test("what waits for a room that was left is given back, not sent into it", () => {
  const { rooms, start } = world();
  rooms.set("r", room("r"));
  const outgoing = start();
  outgoing.submit(act);
  rooms.delete("r");
  outgoing.left("r");
  expect(outgoing.stranded.value).toMatchObject([{ act, failure: { code: "not_found" } }]);
  expect(start().due()).toEqual([]);
});

test("it is told when the browser keeps nothing, until all is sent", () => {
  const { start } = world();
  const outgoing = start();
  outgoing.submit(act);
  expect(outgoing.unkept.value).toBe(true);
  outgoing.fares("a1", { state: "sent", room: "r", seq: 1, at: "" });
  expect(outgoing.unkept.value).toBe(false);
});

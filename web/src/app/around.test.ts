import { expect, test } from "vitest";
import { Around } from "./around";
import { Room } from "./room";

test("only a list that is not full tells who is away", () => {
  const info = { id: "r", kind: "public", name: "r", members: 99, head: 0, role: "member" } as const;
  const room = new Room("r", { room: info, last: null, unread: 0, read: 0, received: 0 }, "me");
  room.meet(["bob"]);
  const around = new Around();
  around.changed("bob", "online");
  around.listed(
    room,
    Array.from({ length: 50 }, (_, i) => `u${i}`),
  );
  expect(around.presence.value.get("bob")).toBe("online");
  around.listed(room, ["eve"]);
  expect(around.presence.value.get("bob")).toBe("offline");
});

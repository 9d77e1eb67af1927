import { expect, test } from "vitest";
import { RestError, type RoomInfo } from "../net/rest";
import { enterRoom } from "./enter";

const info: RoomInfo = { id: "r", kind: "public", name: "r", members: 1, head: 0, role: null };

function server(listed: RoomInfo[], exists: boolean) {
  const calls: string[] = [];
  const refuse = (code: string) => Promise.reject(new RestError(code, 400, code));
  return {
    calls,
    publicRooms: async () => ({ items: listed, next: null }),
    createRoom: () => {
      calls.push("create");
      return exists ? refuse("conflict") : Promise.resolve(info);
    },
    join: () => {
      calls.push("join");
      return exists
        ? Promise.resolve({ user: "me", role: "member", received: 0, read: 0 })
        : refuse("not_found");
    },
    room: async () => info,
  };
}

test("nothing is tried in vain: a room that is listed is joined, another one made", async () => {
  const there = server([info], true);
  await enterRoom(there, "r", "r");
  expect(there.calls).toEqual(["join"]);
  const fresh = server([{ ...info, id: "r2" }], false);
  await enterRoom(fresh, "r", "r");
  expect(fresh.calls).toEqual(["create"]);
});

test("a room that is not listed is joined; one that the server named is never made", async () => {
  const hidden = server([], true);
  await enterRoom(hidden, "r", "r");
  expect(hidden.calls).toEqual(["create", "join"]);
  const gone = server([], false);
  await expect(enterRoom(gone, "0198c0de-0000-7000-8000-000000000001", "x")).rejects.toThrow("not_found");
  expect(gone.calls).toEqual(["join"]);
});

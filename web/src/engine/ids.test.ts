import { expect, test } from "vitest";
import { uuidV7 } from "./ids";

test("an id carries its time and its version", () => {
  const id = uuidV7(0x0198c0de0000, new Uint8Array(10).fill(0xff));
  expect(id).toBe("0198c0de-0000-7fff-bfff-ffffffffffff");
});

test("later ids sort after earlier ones", () => {
  const random = new Uint8Array(10);
  const ids = [1_800_000_000_000, 1_800_000_000_001, 1_900_000_000_000].map((ms) => uuidV7(ms, random));
  expect([...ids].sort()).toEqual(ids);
});

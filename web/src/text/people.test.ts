import { expect, test } from "vitest";
import { initialsOf, roomIdOf, TINTS, tintOf, userIdOf } from "./people";

test("the same name always has the same colour, and names spread over them", () => {
  const tints = new Set<number>();
  for (let i = 0; i < 200; i++) {
    const tint = tintOf(`user-${i}`);
    expect(tint).toBe(tintOf(`user-${i}`));
    expect(tint).toBeGreaterThanOrEqual(0);
    expect(tint).toBeLessThan(TINTS);
    tints.add(tint);
  }
  expect(tints.size).toBe(TINTS);
});

test("initials come from the words of a name", () => {
  expect(initialsOf("alice")).toBe("AL");
  expect(initialsOf("jun.park")).toBe("JP");
  expect(initialsOf("x")).toBe("X");
  expect(initialsOf("--")).toBe("?");
});

test("a typed name becomes a user id or nothing", () => {
  expect(userIdOf("  Alice ")).toBe("alice");
  expect(userIdOf("Jun Park")).toBe("jun.park");
  expect(userIdOf("a/b")).toBeNull();
  expect(userIdOf("")).toBeNull();
  expect(userIdOf("x".repeat(65))).toBeNull();
});

test("a typed name becomes a room id or nothing", () => {
  expect(roomIdOf("#Design Team!")).toBe("design-team");
  expect(roomIdOf("Café")).toBe("cafe");
  expect(roomIdOf("!!!")).toBeNull();
});

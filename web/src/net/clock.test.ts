import { expect, test } from "vitest";
import { Clock } from "./clock";

test("a clock that is set back does not stop time", () => {
  let wall = 10_000;
  const clock = new Clock(() => wall);
  expect(clock.now()).toBe(10_000);
  wall = 3_000;
  expect(clock.now()).toBe(10_000);
  wall = 3_250;
  expect(clock.now()).toBe(10_250);
  wall = 9_000;
  expect(clock.now()).toBe(16_000);
});

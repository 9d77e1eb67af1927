import { expect, test } from "vitest";
import type { Act } from "../engine/frames";
import { Drafts } from "./drafts";
import { Store } from "./storage";

function fake(full = false): Storage {
  const storage = Object.create({
    getItem: (key: string) => storage[key] ?? null,
    setItem: (key: string, value: string) => {
      if (full) throw new Error("QuotaExceededError");
      storage[key] = value;
    },
    removeItem: (key: string) => delete storage[key],
  });
  return storage;
}
const act: Act & { room: string } = { type: "send", id: "a1", room: "r", text: "hi" };
const failure = { code: "forbidden", message: "no" };

test("storage that is forbidden or full is replaced by memory", () => {
  const forbidden = () => {
    throw new Error("SecurityError");
  };
  for (const store of [new Store(forbidden), new Store(() => fake(true))]) {
    expect(store.get("a")).toBe(null);
    expect(store.set("a", "1")).toBe(false);
    expect(store.get("a")).toBe("1");
    expect(store.keys()).toEqual(["a"]);
    store.remove("a");
    expect(store.get("a")).toBe(null);
  }
});

test("what fits again leaves the memory", () => {
  let storage = fake(true);
  const store = new Store(() => storage);
  store.set("a", "1");
  storage = fake();
  expect(store.set("a", "2")).toBe(true);
  expect(storage.getItem("a")).toBe("2");
  expect(store.keys()).toEqual(["a"]);
});

test("a refusal is kept with its act", () => {
  const storage = fake();
  const drafts = new Drafts("me", new Store(() => storage));
  expect(drafts.save({ act })).toBe(true);
  expect(drafts.load()).toEqual([{ act }]);
  drafts.save({ act, failure });
  expect(new Drafts("me", new Store(() => storage)).load()).toEqual([{ act, failure }]);
  drafts.remove(act.id);
  expect(drafts.load()).toEqual([]);
});

import { describe, expect, test } from "vitest";
import type { LogEvent } from "../engine/frames";
import { type Message, react, Timeline } from "./timeline";

const at = "2026-11-21T11:00:00.000Z";

function said(seq: number, text = `m${seq}`): LogEvent {
  return { room: "r", seq, prev: seq - 1, at, from: "bob", kind: "message", id: `id-${seq}`, text };
}
function edited(seq: number, target: number, text: string): LogEvent {
  return { room: "r", seq, prev: seq - 1, at, from: "bob", kind: "edit", id: `id-${seq}`, target, text };
}
function stored(seq: number, text = `m${seq}`): Message {
  return { room: "r", seq, id: `id-${seq}`, from: "bob", at, text, deleted: false, reactions: [] };
}
function shown(timeline: Timeline): string[] {
  return timeline.messages.map((m) => `${m.seq}:${m.text ?? "-"}`);
}
function loaded(...messages: Message[]): Timeline {
  const timeline = new Timeline();
  timeline.show(timeline.reading(), messages, { atStart: true, atEnd: true });
  return timeline;
}

describe("the timeline", () => {
  test("appends a new message once", () => {
    const timeline = loaded(stored(1));
    timeline.apply(said(2));
    timeline.apply(said(2));
    expect(shown(timeline)).toEqual(["1:m1", "2:m2"]);
  });

  test("does not append what is not next to what it shows", () => {
    const timeline = new Timeline();
    timeline.show(timeline.reading(), [stored(5)], { atStart: false, atEnd: false });
    timeline.apply(said(100));
    expect(shown(timeline)).toEqual(["5:m5"]);
  });

  test("applies edits, deletions and reactions to the message they name", () => {
    const timeline = loaded(stored(1), stored(2));
    timeline.apply(edited(3, 1, "better"));
    timeline.apply({
      room: "r",
      seq: 4,
      prev: 3,
      at,
      from: "eve",
      kind: "reaction",
      id: "x",
      target: 1,
      emoji: "👍",
      on: true,
    });
    timeline.apply({ room: "r", seq: 5, prev: 4, at, from: "bob", kind: "delete", id: "y", target: 2 });
    expect(shown(timeline)).toEqual(["1:better", "2:-"]);
    expect(timeline.find(1)).toMatchObject({ edited_at: at, reactions: [{ emoji: "👍", users: ["eve"] }] });
    expect(timeline.find(2)?.deleted).toBe(true);
  });

  test("an edit after the deletion changes nothing", () => {
    const timeline = loaded(stored(1));
    timeline.apply({ room: "r", seq: 2, prev: 1, at, from: "bob", kind: "delete", id: "y", target: 1 });
    timeline.apply(edited(3, 1, "back"));
    expect(shown(timeline)).toEqual(["1:-"]);
  });

  test("a page that was read before an edit does not undo it", () => {
    const timeline = loaded(stored(5));
    const reading = timeline.reading();
    timeline.apply(edited(6, 3, "new"));
    timeline.addOlder(reading, [stored(3, "old"), stored(4)], true);
    expect(shown(timeline)).toEqual(["3:new", "4:m4", "5:m5"]);
  });

  test("a message that came while the newest page was read is not lost", () => {
    const timeline = new Timeline();
    const reading = timeline.reading();
    timeline.apply(said(3));
    timeline.show(reading, [stored(1), stored(2)], { atStart: true, atEnd: true });
    expect(shown(timeline)).toEqual(["1:m1", "2:m2", "3:m3"]);
  });

  test("two readings at once are each brought up to date", () => {
    const timeline = loaded(stored(10));
    const first = timeline.reading();
    timeline.apply(edited(11, 5, "five"));
    const second = timeline.reading();
    timeline.apply(edited(12, 4, "four"));
    timeline.addOlder(second, [stored(5, "five")], false);
    timeline.addOlder(first, [stored(4, "old")], true);
    expect(shown(timeline)).toEqual(["4:four", "5:five", "10:m10"]);
  });

  test("overlapping pages show every message once", () => {
    const timeline = loaded(stored(3), stored(4));
    timeline.addOlder(timeline.reading(), [stored(2), stored(3)], true);
    timeline.addNewer(timeline.reading(), [stored(4), stored(5)], true);
    expect(shown(timeline)).toEqual(["2:m2", "3:m3", "4:m4", "5:m5"]);
  });

  test("the oldest of very many messages are forgotten, at the end of the room only", () => {
    const many = Array.from({ length: 30 }, (_, i) => stored(i + 1));
    const timeline = loaded(...many);
    expect(timeline.trim(21)).toBe(false);
    const reading = timeline.reading();
    expect(timeline.trim(20)).toBe(false);
    timeline.abandon(reading);
    expect(timeline.trim(20)).toBe(true);
    expect(timeline.messages.map((m) => m.seq)).toEqual(many.slice(-20).map((m) => m.seq));
    expect(timeline).toMatchObject({ atStart: false, atEnd: true });

    const middle = new Timeline();
    middle.show(middle.reading(), many, { atStart: true, atEnd: false });
    expect(middle.trim(20)).toBe(false);
  });

  test("a page that was asked for before everything was forgotten is not shown", () => {
    const timeline = loaded(stored(1));
    const reading = timeline.reading();
    timeline.apply(said(2));
    timeline.clear();
    timeline.apply(said(3));
    timeline.show(reading, [stored(1)], { atStart: true, atEnd: true });
    expect(shown(timeline)).toEqual([]);
  });

  test("an unchanged message stays the same object", () => {
    const timeline = loaded(stored(1), stored(2));
    const first = timeline.find(1);
    timeline.apply(edited(3, 2, "new"));
    expect(timeline.find(1)).toBe(first);
  });
});

describe("reactions", () => {
  test("twice on is once, and off takes the last away", () => {
    const once = react([], "👍", "bob", true);
    expect(react(once, "👍", "bob", true)).toEqual([{ emoji: "👍", users: ["bob"] }]);
    expect(react(once, "👍", "bob", false)).toEqual([]);
    expect(react(once, "👍", "eve", false)).toEqual(once);
    expect(react([], "👍", "bob", false)).toEqual([]);
  });
});

import { expect, test } from "vitest";
import { type MessagesQuery, type Page, RestError } from "../net/rest";
import type { Message } from "../timeline/timeline";
import { History } from "./history";
import { Room } from "./room";

const at = "2026-11-21T11:00:00.000Z";
function stored(seq: number): Message {
  return { room: "r", seq, id: `m${seq}`, from: "bob", at, text: "x", deleted: false, reactions: [] };
}
function page(next: string | null, ...seqs: number[]): Page<Message> {
  return { items: seqs.map(stored), next };
}
function room(): Room {
  const info = { id: "r", kind: "public", name: "r", members: 2, head: 9, role: "member" } as const;
  return new Room("r", { room: info, last: null, unread: 0, read: 9, received: 9 }, "me");
}
/** Gives these answers in turn and notes the questions. */
function server(...answers: (Page<Message> | null)[]) {
  const asked: MessagesQuery[] = [];
  const messages = async (_: string, query: MessagesQuery) => {
    asked.push(query);
    const answer = answers.shift();
    if (!answer) throw new RestError("unavailable", 503, "away");
    return answer;
  };
  return { asked, history: new History({ messages, members: () => Promise.reject() }) };
}
const seqs = (made: Room) => made.timeline.messages.map((m) => m.seq);

test("an empty page is not the end; only one without a next is", async () => {
  const { asked, history } = server(page("a", 8, 9), page("b"), page("c"), page("d", 5), page(null));
  const made = room();
  await history.latest(made);
  expect(made.timeline.atStart).toBe(false);
  await history.older(made);
  expect(seqs(made)).toEqual([5, 8, 9]);
  expect(made.timeline.atStart).toBe(false);
  expect(asked.slice(1)).toEqual([
    { before: 8, limit: 200 },
    { before: 8, limit: 200, cursor: "b" },
    { before: 8, limit: 200, cursor: "c" },
  ]);
  await history.older(made);
  expect(made.timeline.atStart).toBe(true);
  await history.older(made);
  expect(asked.length).toBe(5);
});

test("the newest page of a room full of other events is looked for", async () => {
  const { history } = server(page("a"), page(null, 2));
  const made = room();
  await history.latest(made);
  expect(seqs(made)).toEqual([2]);
  expect(made.timeline).toMatchObject({ atStart: true, atEnd: true });
});

test("a failure is told with its part, and reading again puts it right", async () => {
  const { history } = server(null, page("a", 5), null, page(null, 4));
  const made = room();
  await history.latest(made);
  expect([...made.failedToLoad.value]).toEqual(["latest"]);
  await history.latest(made);
  await history.older(made);
  expect([...made.failedToLoad.value]).toEqual(["older"]);
  await history.older(made);
  expect([...made.failedToLoad.value]).toEqual([]);
  expect(seqs(made)).toEqual([4, 5]);
});

test("a jump does not wait for the page that is being read, nor is it undone by it", async () => {
  let answerFirst: (page: Page<Message>) => void = () => {};
  const messages = (_: string, query: MessagesQuery) =>
    query.around === undefined
      ? new Promise<Page<Message>>((resolve) => (answerFirst = resolve))
      : Promise.resolve(page(null, 3, 4));
  const history = new History({ messages, members: () => Promise.reject() });
  const made = room();
  const first = history.latest(made);
  await history.around(made, 3);
  answerFirst(page("a", 8, 9));
  await first;
  expect(seqs(made)).toEqual([3, 4]);
  expect(made.loading.value).toBe(null);
});

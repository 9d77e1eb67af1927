import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import type { Room } from "../app/room";
import type { Session } from "../app/session";
import type { Found } from "../net/rest";
import { briefTime } from "../text/times";
import { Avatar } from "./avatar";
import { Icon } from "./icons";
import { hrefOf } from "./routes";

type Results = {
  state: "idle" | "searching" | "done" | "failed";
  items: readonly Found[];
  next: string | null;
};

/** Full-text search in the open room or in all of mine; a result opens its place in the history. */
export function SearchPanel(props: { session: Session; room: Room | null; onClose: () => void }) {
  const { session, room } = props;
  const input = useRef<HTMLInputElement>(null);
  const query = useSignal("");
  const here = useSignal(room !== null);
  const results = useSignal<Results>({ state: "idle", items: [], next: null });
  useEffect(() => input.current?.focus(), []);

  const scope = here.value ? room?.id : undefined;
  useEffect(() => {
    const q = query.value.trim();
    if (!q) {
      results.value = { state: "idle", items: [], next: null };
      return;
    }
    let late = false;
    const timer = setTimeout(async () => {
      results.value = { ...results.value, state: "searching" };
      const page = await session.rest.search(q, scope).catch(() => null);
      if (late) return;
      results.value = page
        ? { state: "done", items: page.items, next: page.next }
        : { state: "failed", items: [], next: null };
    }, 200);
    return () => {
      late = true;
      clearTimeout(timer);
    };
  }, [query.value, scope]);

  const more = async () => {
    const { items, next } = results.value;
    const page = next && (await session.rest.search(query.value.trim(), scope, next).catch(() => null));
    if (page) results.value = { state: "done", items: [...items, ...page.items], next: page.next };
  };

  const { state, items, next } = results.value;
  return (
    <aside class="panel" aria-label="Search">
      <div class="panel-head">
        <h2>Search</h2>
        <button type="button" class="icon-button" aria-label="Close the search" onClick={props.onClose}>
          <Icon name="close" />
        </button>
      </div>
      <form role="search" class="search-form" onSubmit={(e) => e.preventDefault()}>
        <label class="hidden" for="search">
          Search messages
        </label>
        <input
          id="search"
          type="search"
          ref={input}
          value={query.value}
          onInput={(e) => (query.value = e.currentTarget.value)}
          placeholder="Search messages"
          autocomplete="off"
        />
        {room && (
          <label class="choice">
            <input
              type="checkbox"
              checked={here.value}
              onChange={(e) => (here.value = e.currentTarget.checked)}
            />
            Only in {room.title.value}
          </label>
        )}
      </form>
      <p class="panel-note muted" role="status">
        {state === "failed"
          ? "The search does not answer at the moment."
          : state === "done"
            ? items.length === 0
              ? `Nothing found for “${query.value.trim()}”.`
              : `${items.length}${next ? "+" : ""} ${items.length === 1 && !next ? "message" : "messages"}, newest first`
            : state === "idle"
              ? "Words of a message, in any order."
              : "Searching…"}
      </p>
      <ul class="results">
        {items.map((found) => (
          <li key={`${found.room}/${found.seq}`}>
            <a
              class="result"
              href={hrefOf(found.room, found.seq)}
              onClick={() => {
                if (matchMedia("(max-width: 1000px)").matches) props.onClose();
              }}
            >
              <Avatar name={found.from} size="s" />
              <span class="result-text">
                <span class="result-head">
                  <strong>{found.from}</strong>
                  <span class="muted">
                    {here.value
                      ? ""
                      : `#${session.rooms.value.get(found.room)?.title.value ?? found.room} · `}
                    {briefTime(found.at, new Date())}
                  </span>
                </span>
                <span class="result-line">{marked(found.text, query.value)}</span>
              </span>
            </a>
          </li>
        ))}
      </ul>
      {next && (
        <button type="button" class="button panel-more" onClick={more}>
          Show more
        </button>
      )}
    </aside>
  );
}

/** The text with the searched words marked, where they stand as they were typed. */
function marked(text: string, query: string) {
  const words = query.split(/[^\p{L}\p{N}]+/u).filter(Boolean);
  if (words.length === 0) return text;
  return text
    .split(new RegExp(`(${words.join("|")})`, "iu"))
    .map((piece, i) => (i % 2 ? <mark key={`${i}`}>{piece}</mark> : piece));
}

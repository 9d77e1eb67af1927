import type { Message } from "../timeline/timeline";

export interface RoomInfo {
  id: string;
  kind: "public" | "private" | "direct";
  name: string;
  topic?: string | null;
  members: number;
  head: number;
  role: "owner" | "admin" | "member" | null;
  with?: string;
}

export interface Member {
  user: string;
  role: string;
  received: number;
  read: number;
}

export interface Page<T> {
  items: T[];
  next: string | null;
}

export interface InboxEntry {
  room: RoomInfo;
  last: Message | null;
  unread: number;
  read: number;
  received: number;
}

export interface MessagesQuery {
  before?: number;
  after?: number;
  around?: number;
  limit?: number;
  cursor?: string | undefined;
}

export interface Found {
  room: string;
  seq: number;
  id: string;
  from: string;
  at: string;
  text: string;
}

/** An answer that is no success; `code` is one of the API's error codes, or `unavailable` when nobody answered. */
export class RestError extends Error {
  constructor(
    readonly code: string,
    readonly status: number,
    message: string,
    /** The earliest time to ask again, from now on; 0 when the server does not say. */
    readonly retryAfterMs = 0,
  ) {
    super(message);
  }
}

interface Problem {
  code?: string;
  detail?: string;
  title?: string;
  retry_after_ms?: number;
}

type Query = Record<string, string | number | boolean | undefined>;

/** The HTTP API, as one user. */
export class Rest {
  constructor(private readonly user: string) {}

  inbox(cursor?: string): Promise<Page<InboxEntry>> {
    return this.call("GET", "/v1/inbox", { query: { limit: 200, cursor } });
  }
  publicRooms(q: string): Promise<Page<RoomInfo>> {
    return this.call("GET", "/v1/rooms", { query: { kind: "public", q: q || undefined, limit: 50 } });
  }
  room(id: string): Promise<RoomInfo> {
    return this.call("GET", `/v1/rooms/${encodeURIComponent(id)}`);
  }
  createRoom(room: { id?: string; kind: "public" | "private"; name: string }): Promise<RoomInfo> {
    return this.call("POST", "/v1/rooms", { body: room });
  }
  join(id: string): Promise<Member> {
    return this.call("PUT", `/v1/rooms/${encodeURIComponent(id)}/members/me`);
  }
  leave(id: string): Promise<void> {
    return this.call("DELETE", `/v1/rooms/${encodeURIComponent(id)}/members/me`);
  }
  direct(user: string): Promise<RoomInfo> {
    return this.call("PUT", `/v1/direct/${encodeURIComponent(user)}`);
  }
  members(id: string): Promise<Page<Member>> {
    return this.call("GET", `/v1/rooms/${encodeURIComponent(id)}/members`, { query: { limit: 200 } });
  }
  messages(id: string, query: MessagesQuery): Promise<Page<Message>> {
    return this.call("GET", `/v1/rooms/${encodeURIComponent(id)}/messages`, { query: { ...query } });
  }
  search(q: string, room: string | undefined, cursor?: string): Promise<Page<Found>> {
    return this.call("GET", "/v1/search", { query: { q, room, cursor, limit: 30 } });
  }
  private async call<T>(
    method: string,
    path: string,
    options: { query?: Query; body?: unknown } = {},
  ): Promise<T> {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(options.query ?? {}))
      if (value !== undefined) query.set(name, String(value));
    const headers: Record<string, string> = { "x-darda-user": this.user };
    const init: RequestInit = { method, headers };
    if (options.body !== undefined) {
      headers["content-type"] = "application/json";
      init.body = JSON.stringify(options.body);
    }
    let answer: Response;
    try {
      answer = await fetch(query.size > 0 ? `${path}?${query}` : path, init);
    } catch {
      throw new RestError("unavailable", 0, "The server cannot be reached.");
    }
    if (answer.ok) return (answer.status === 204 ? undefined : await answer.json()) as T;
    const problem: Problem = await answer.json().catch(() => ({}));
    throw new RestError(
      problem.code ?? (answer.status >= 500 ? "unavailable" : "bad_request"),
      answer.status,
      problem.detail ?? problem.title ?? `The server answered ${answer.status}.`,
      problem.retry_after_ms ?? (Number(answer.headers.get("retry-after")) * 1000 || 0),
    );
  }
}

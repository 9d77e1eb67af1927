/** The frames of wire protocol v1 as the page uses them: one JSON object each, named by `type`. */

interface EventBase {
  room: string;
  seq: number;
  /** The `seq` of the event before; null on a fence. */
  prev: number | null;
  at: string;
  from?: string;
}

export interface MessageEvent extends EventBase {
  kind: "message";
  id: string;
  text: string;
  reply_to?: number;
  meta?: Record<string, string>;
}
export interface EditEvent extends EventBase {
  kind: "edit";
  id: string;
  target: number;
  text: string;
}
export interface DeleteEvent extends EventBase {
  kind: "delete";
  id: string;
  target: number;
}
export interface ReactionEvent extends EventBase {
  kind: "reaction";
  id: string;
  target: number;
  emoji: string;
  on: boolean;
}
export interface MemberEvent extends EventBase {
  kind: "member";
  user: string;
  change: string;
  role?: string;
}
export interface RoomChangeEvent extends EventBase {
  kind: "room";
  change: string;
  name?: string;
  topic?: string;
}
export interface FillerEvent extends EventBase {
  kind: "fence" | "void";
}

/** One entry of a room's log. */
export type LogEvent =
  | MessageEvent
  | EditEvent
  | DeleteEvent
  | ReactionEvent
  | MemberEvent
  | RoomChangeEvent
  | FillerEvent;

export interface Limits {
  frame_bytes: number;
  text_bytes: number;
  subscribe_rooms: number;
  fetch_events: number;
}

export type ErrorCode =
  | "bad_request"
  | "unauthenticated"
  | "forbidden"
  | "not_found"
  | "conflict"
  | "too_large"
  | "rate_limited"
  | "unavailable"
  | "overloaded"
  | "internal";

/** Whether the same request may succeed later. */
export function isRetryable(code: ErrorCode): boolean {
  return code === "rate_limited" || code === "unavailable" || code === "overloaded" || code === "internal";
}

export type ServerFrame =
  | {
      type: "welcome";
      session: string;
      user: string;
      time: string;
      heartbeat_secs: number;
      limits: Partial<Limits>;
    }
  | {
      type: "subscribed";
      ref?: string;
      room: string;
      head: number;
      after: number;
      read?: number;
      members?: number;
      online?: string[];
    }
  | { type: "unsubscribed"; ref?: string; rooms: string[] }
  | ({ type: "event" } & LogEvent)
  | { type: "events"; ref?: string; room: string; events: LogEvent[]; head: number; more: boolean }
  | { type: "ack"; id: string; room: string; seq: number; at: string; duplicate?: boolean }
  | {
      type: "error";
      ref?: string;
      id?: string;
      room?: string;
      code: ErrorCode;
      message: string;
      retry_after_ms?: number;
    }
  | { type: "receipt"; room: string; user: string; received: number; read: number }
  | { type: "typing"; room: string; user: string; on: boolean }
  | { type: "presence"; user: string; status: PresenceStatus; last_seen?: string }
  | { type: "notice"; kind: string; room?: string }
  | { type: "heads"; rooms: Record<string, number> }
  | { type: "goaway"; reconnect_in_ms: number; reason: string };

export type PresenceStatus = "online" | "away" | "offline" | "unknown";

/** What a person did that must reach the log: has an id of the sender, and is acknowledged. */
export type Act =
  | {
      type: "send";
      id: string;
      room?: string;
      to?: string;
      text: string;
      reply_to?: number;
      meta?: Record<string, string>;
    }
  | { type: "edit"; id: string; room: string; to?: never; seq: number; text: string }
  | { type: "delete"; id: string; room: string; to?: never; seq: number }
  | { type: "react"; id: string; room: string; to?: never; seq: number; emoji: string; on: boolean };

export type ClientFrame =
  | { type: "hello"; user?: string; token?: string; client?: string }
  | { type: "subscribe"; ref: string; rooms: { room: string; after?: number }[] }
  | { type: "unsubscribe"; ref: string; rooms: string[] }
  | { type: "fetch"; ref: string; room: string; after: number; limit: number }
  | { type: "received" | "read"; room: string; seq: number }
  | { type: "typing"; room: string; on: boolean }
  | Act;

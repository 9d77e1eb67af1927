import type { Act, ClientFrame, ErrorCode, LogEvent, ServerFrame } from "./frames";

/** Something to do, or to tell the page; to be carried out in order. */
export type Effect =
  /** Open socket `conn`, then say `opened` or `closed`. */
  | { type: "connect"; conn: number }
  /** Close socket `conn`; the engine has forgotten it already. */
  | { type: "close"; conn: number }
  | { type: "send_frame"; conn: number; frame: ClientFrame }
  | ({ type: "status" } & State)
  /** The next event of a room: each once, in order, without a hole. */
  | { type: "deliver"; event: LogEvent }
  /** A frame of the server that is not part of a room's log. */
  | { type: "signal"; frame: ServerFrame }
  /** The room's log is not the one that was known: forget its events. Those after `position` follow. */
  | { type: "reset_room"; room: string; position: number; head: number }
  /** The room is no longer subscribed, and will not be by itself. */
  | { type: "room_closed"; room: string; reason: "removed" | "deleted" | ErrorCode; message?: string }
  /** What became of something submitted. */
  | ({ type: "outbox"; id: string } & OutboxState);

/** The state of the connection as a person would say it. */
export type State =
  | { state: "connecting" }
  | { state: "online" }
  | { state: "waiting"; retry_in_ms: number }
  /** Nothing more is tried until `start`. */
  | { state: "stopped"; code?: ErrorCode; message?: string };

/** The way of something submitted: queued, sending, perhaps waiting, and at last sent or failed. */
export type OutboxState =
  | { state: "queued" }
  | { state: "sending" }
  | { state: "waiting"; code: ErrorCode; retry_in_ms: number }
  /** Kept by the server for good; no longer in the outbox. */
  | { state: "sent"; room: string; seq: number; at: string; duplicate?: true }
  /** Refused for good; no longer in the outbox. */
  | { state: "failed"; code: ErrorCode | "outbox_full"; message: string };

export interface Hello {
  user?: string;
  token?: string;
  client?: string;
}

export interface Subscription {
  room: string;
  after?: number;
}

/** What happened. */
export type Input =
  /** Begin to connect, or begin again after `stopped`. */
  | { type: "start"; hello?: Hello }
  /** Close everything. Positions and the outbox stay. */
  | { type: "stop" }
  /** The network is said to be back: do not wait for the backoff. */
  | { type: "retry_now" }
  | { type: "opened"; conn: number }
  | { type: "frame"; conn: number; frame: ServerFrame }
  /** Something came in that is no frame this version knows. */
  | { type: "heard"; conn: number }
  | { type: "closed"; conn: number; code?: number; reason?: string }
  /** The time that `wakeAt` named has come. */
  | { type: "tick" }
  /** Want the events of rooms: those after `after`, or without it those that happen from now on. */
  | { type: "subscribe"; rooms: readonly Subscription[] }
  | { type: "unsubscribe"; rooms: readonly string[] }
  /** Send something that has an id. */
  | { type: "submit"; act: Act }
  /** The person has seen everything up to `seq`. */
  | { type: "read"; room: string; seq: number }
  | { type: "typing"; room: string; on: boolean };

import type { Effect, Input } from "../engine/effect";
import type { Engine } from "../engine/engine";
import type { ClientFrame } from "../engine/frames";
import { Clock } from "./clock";

/** Moves frames between the engine and WebSockets, and wakes the engine in time. Decides nothing. */
export class Link {
  private readonly sockets = new Map<number, WebSocket>();
  private timer: ReturnType<typeof setTimeout> | undefined;
  private readonly clock = new Clock();
  private stopped = false;

  constructor(
    private readonly engine: Engine,
    private readonly onEffect: (effect: Effect) => void,
  ) {
    window.addEventListener("online", this.hurry);
    document.addEventListener("visibilitychange", this.hurry);
  }

  step(input: Input): void {
    if (this.stopped) return;
    const now = this.clock.now();
    for (const effect of this.engine.handle(input, now, Math.random())) this.carryOut(effect);
    clearTimeout(this.timer);
    const at = this.engine.wakeAt();
    if (at !== null)
      this.timer = setTimeout(() => this.step({ type: "tick" }), Math.max(0, at - this.clock.now()));
  }

  stop(): void {
    this.stopped = true;
    clearTimeout(this.timer);
    window.removeEventListener("online", this.hurry);
    document.removeEventListener("visibilitychange", this.hurry);
    for (const socket of this.sockets.values()) socket.close();
  }

  private hurry = () => {
    if (document.visibilityState === "visible") this.step({ type: "retry_now" });
  };

  private carryOut(effect: Effect): void {
    switch (effect.type) {
      case "connect":
        this.open(effect.conn);
        return;
      case "close": {
        const socket = this.sockets.get(effect.conn);
        this.sockets.delete(effect.conn);
        socket?.close();
        return;
      }
      case "send_frame":
        this.write(effect.conn, effect.frame);
        return;
      default:
        this.onEffect(effect);
    }
  }

  private open(conn: number): void {
    const url = new URL("/v1/ws", location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(url);
    this.sockets.set(conn, socket);
    socket.onopen = () => this.step({ type: "opened", conn });
    socket.onmessage = (e) => {
      if (typeof e.data === "string" && this.sockets.has(conn))
        this.step({ type: "frame", conn, frame: JSON.parse(e.data) });
    };
    socket.onclose = (e) => {
      if (this.sockets.delete(conn)) this.step({ type: "closed", conn, code: e.code, reason: e.reason });
    };
  }

  private write(conn: number, frame: ClientFrame): void {
    const socket = this.sockets.get(conn);
    if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(frame));
  }
}

/** What this person did and the log is not known to hold: sent again until it is, shown until it is seen there. */
import { signal } from "@preact/signals";
import type { OutboxState } from "../engine/effect";
import type { Act } from "../engine/frames";
import { uuidV7 } from "../engine/ids";
import type { Drafts, Kept } from "../net/drafts";
import type { Room } from "./room";

/** What sends the acts. */
interface Sender {
  submit(act: Act): void;
  /** No longer sends this act. */
  forget(id: string): void;
  /** The last event of the room that was delivered. */
  position(room: string): number;
}

export class Outgoing {
  /** Refused for good, in rooms that are not in the list: nothing else shows them. */
  readonly stranded = signal<readonly Kept[]>([]);
  /** Something would not survive a reload, for the browser does not keep it. */
  readonly unkept = signal(false);
  /** All of it, also for rooms that are not in the list yet. */
  private readonly kept = new Map<string, Kept>();
  private lastId = 0;

  constructor(
    private readonly drafts: Drafts,
    private readonly rooms: () => ReadonlyMap<string, Room>,
  ) {
    for (const kept of drafts.load()) this.kept.set(kept.act.id, kept);
  }

  /** Set once the engine exists, which is made with what is to be sent. */
  sender: Sender = { submit: () => {}, forget: () => {}, position: () => 0 };

  /** What is to be sent. What was refused for good waits for a person. */
  due(): Act[] {
    return [...this.kept.values()].filter((kept) => !kept.failure).map((kept) => kept.act);
  }

  submit(act: Act): void {
    this.keep({ act });
    this.roomOf(act)?.submitted(act, new Date().toISOString());
    this.sender.submit(act);
  }

  retry(id: string): void {
    const act = this.kept.get(id)?.act;
    if (!act) return;
    this.keep({ act });
    this.roomOf(act)?.retried(id);
    this.sender.submit(act);
  }

  discard(id: string): void {
    const act = this.kept.get(id)?.act;
    this.settle(id);
    if (act) this.roomOf(act)?.dropPending(id);
  }

  /** Sends what a tab left behind that was closed meanwhile. One that is still open sends it too, which is harmless. */
  adopt(): void {
    for (const kept of this.drafts.load()) {
      if (this.kept.has(kept.act.id)) continue;
      this.kept.set(kept.act.id, kept);
      const room = this.roomOf(kept.act);
      if (room) show(room, kept);
      if (!kept.failure) this.sender.submit(kept.act);
    }
    this.look();
  }

  /** How an act fares. Its room may not be in the list; then only what is kept changes. */
  fares(id: string, state: OutboxState): void {
    const kept = this.kept.get(id);
    if (!kept) return;
    const room = this.roomOf(kept.act);
    if (state.state === "sent") {
      this.settle(id);
      room?.acked(id, state.at, state.seq <= this.sender.position(state.room));
    } else if (state.state === "failed") this.fail(kept.act, state.code, state.message);
  }

  /** A room has come into the list. */
  entered(room: Room): void {
    for (const kept of this.kept.values()) if (kept.act.room === room.id) show(room, kept);
    this.look();
  }

  /** A room has left the list. What was not sent there would only be refused, or bring its sender back in. */
  left(room: string): void {
    for (const { act, failure } of [...this.kept.values()]) {
      if (act.room !== room || failure) continue;
      this.sender.forget(act.id);
      this.fail(act, "not_found", "you are no longer in this room");
    }
    this.look();
  }

  /** Another tab got the answer for this act, or its user gave it up. */
  settledElsewhere(id: string): void {
    const kept = this.kept.get(id);
    if (!kept) return;
    this.settle(id);
    const room = this.roomOf(kept.act);
    if (kept.failure) room?.dropPending(id);
    // Our own connection brings the event; until then the message stays visible.
    else room?.acked(id, timeOf(id), false);
  }

  /** Later ids sort after earlier ones, also within one millisecond. */
  newId(): string {
    this.lastId = Math.max(Date.now(), this.lastId + 1);
    return uuidV7(this.lastId, crypto.getRandomValues(new Uint8Array(10)));
  }

  private fail(act: Act, code: string, message: string): void {
    const failure = { code, message };
    // A full outbox is no refusal of the server; after a reload there is room again.
    if (code === "outbox_full") this.kept.set(act.id, { act, failure });
    else this.keep({ act, failure });
    this.roomOf(act)?.failed(act.id, code, message);
    this.look();
  }

  private keep(kept: Kept): void {
    this.kept.set(kept.act.id, kept);
    if (!this.drafts.save(kept)) this.unkept.value = true;
    this.look();
  }

  /** Nothing is left to be done about this act. */
  private settle(id: string): void {
    this.kept.delete(id);
    this.drafts.remove(id);
    this.sender.forget(id);
    if (this.kept.size === 0) this.unkept.value = false;
    this.look();
  }

  private look(): void {
    const rooms = this.rooms();
    const found = [...this.kept.values()].filter((kept) => kept.failure && !rooms.has(kept.act.room ?? ""));
    if (found.length > 0 || this.stranded.value.length > 0) this.stranded.value = found;
  }

  private roomOf(act: Act): Room | undefined {
    return this.rooms().get(act.room ?? "");
  }
}

function show(room: Room, { act, failure }: Kept): void {
  room.submitted(act, timeOf(act.id));
  if (failure) room.failed(act.id, failure.code, failure.message);
}

/** When a message was written: the first 48 bits of its id. */
function timeOf(id: string): string {
  const ms = Number.parseInt(id.replace(/-/g, "").slice(0, 12), 16);
  return new Date(Number.isFinite(ms) ? ms : Date.now()).toISOString();
}

import type { Act } from "../engine/frames";
import { local, type Store } from "./storage";

/** Something a person did that is not known to be in the log, and why not, if it was refused for good. */
export interface Kept {
  readonly act: Act;
  readonly failure?: { readonly code: string; readonly message: string };
}

/**
 * Keeps what was not acked in localStorage, one key per act, so that a reload or a crash of the tab loses nothing. All
 * tabs of a user share the keys: each may send all of them, because the server stores an id once however often it comes.
 */
export class Drafts {
  private readonly prefix: string;

  constructor(
    user: string,
    private readonly store: Store = local,
  ) {
    this.prefix = `darda:outbox:${user}:`;
  }

  /** False when it will not survive a reload. */
  save({ act, failure }: Kept): boolean {
    return this.store.set(this.prefix + act.id, JSON.stringify(failure ? { ...act, failure } : act));
  }

  remove(id: string): void {
    this.store.remove(this.prefix + id);
  }

  /** Oldest first: the ids sort by time. */
  load(): Kept[] {
    const keys = this.store.keys().filter((key) => key.startsWith(this.prefix));
    return keys.sort().flatMap((key) => parse(this.store.get(key)) ?? []);
  }

  /** Calls back when another tab settled an act. Returns what ends that. */
  onRemoved(callback: (id: string) => void): () => void {
    const listen = (e: StorageEvent) => {
      if (e.key?.startsWith(this.prefix) && e.newValue === null) callback(e.key.slice(this.prefix.length));
    };
    window.addEventListener("storage", listen);
    return () => window.removeEventListener("storage", listen);
  }
}

function parse(json: string | null): Kept | null {
  try {
    const { failure, ...act } = JSON.parse(json ?? "null");
    if (typeof act.id !== "string" || typeof act.room !== "string") return null;
    return typeof failure?.code === "string" ? { act, failure } : { act };
  } catch {
    return null;
  }
}

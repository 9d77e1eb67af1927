import type { Act } from "../engine/frames";

/**
 * Keeps what was not acked in localStorage, one key per act, so that a reload or a crash of the tab loses nothing. All
 * tabs of a user share the keys: each may send all of them, because the server stores an id once however often it comes.
 */
export class Drafts {
  private readonly prefix: string;

  constructor(user: string) {
    this.prefix = `darda:outbox:${user}:`;
  }

  save(act: Act): void {
    try {
      localStorage.setItem(this.prefix + act.id, JSON.stringify(act));
    } catch {
      // Full or forbidden storage: the message is still sent, it only does not survive a reload.
    }
  }

  remove(id: string): void {
    localStorage.removeItem(this.prefix + id);
  }

  /** Oldest first: the ids sort by time. */
  load(): Act[] {
    const keys = Object.keys(localStorage).filter((key) => key.startsWith(this.prefix));
    return keys.sort().flatMap((key) => {
      const act = parse(localStorage.getItem(key));
      return act ? [act] : [];
    });
  }

  /** Calls back when another tab settled an act. */
  onRemoved(callback: (id: string) => void): void {
    window.addEventListener("storage", (e) => {
      if (e.key?.startsWith(this.prefix) && e.newValue === null) callback(e.key.slice(this.prefix.length));
    });
  }
}

function parse(json: string | null): Act | null {
  try {
    const value = JSON.parse(json ?? "null");
    return value && typeof value.id === "string" && typeof value.room === "string" ? value : null;
  } catch {
    return null;
  }
}

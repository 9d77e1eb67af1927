/**
 * The browser's storage, which may be forbidden or full. What it does not take is kept in memory, so the page works; it
 * only does not survive the tab.
 */
export class Store {
  private readonly memory = new Map<string, string>();

  /** `find` is called each time: with storage forbidden, naming it already throws. */
  constructor(private readonly find: () => Storage) {}

  get(key: string): string | null {
    return this.memory.get(key) ?? this.attempt((storage) => storage.getItem(key)) ?? null;
  }

  /** False when it is only kept in memory. */
  set(key: string, value: string): boolean {
    const kept = this.attempt((storage) => {
      storage.setItem(key, value);
      return true;
    });
    if (kept) this.memory.delete(key);
    else this.memory.set(key, value);
    return kept ?? false;
  }

  remove(key: string): void {
    this.memory.delete(key);
    this.attempt((storage) => storage.removeItem(key));
  }

  keys(): string[] {
    return [...new Set([...(this.attempt((storage) => Object.keys(storage)) ?? []), ...this.memory.keys()])];
  }

  private attempt<T>(work: (storage: Storage) => T): T | undefined {
    try {
      return work(this.find());
    } catch {
      return undefined;
    }
  }
}

/** Shared by all tabs. */
export const local = new Store(() => localStorage);
/** Of this tab; survives a reload. */
export const tab = new Store(() => sessionStorage);

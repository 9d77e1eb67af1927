import { retryIn } from "../net/backoff";
import type { InboxEntry, Rest } from "../net/rest";

/** Reads the list of rooms, until it has all of it. Asked for again meanwhile, it begins anew: there is never more than
 * one reader. */
export class Inbox {
  private generation = 0;
  private failures = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly rest: Pick<Rest, "inbox">,
    private readonly found: (entries: readonly InboxEntry[]) => void,
    private readonly complete: () => void,
  ) {}

  async read(): Promise<void> {
    const mine = this.begin();
    try {
      let cursor: string | undefined;
      do {
        const page: { items: InboxEntry[]; next: string | null } = await this.rest.inbox(cursor);
        if (mine !== this.generation) return;
        this.found(page.items);
        cursor = page.next ?? undefined;
      } while (cursor);
    } catch (error) {
      if (mine !== this.generation) return;
      this.timer = setTimeout(() => void this.read(), retryIn(this.failures, error));
      this.failures += 1;
      return;
    }
    this.failures = 0;
    this.complete();
  }

  stop(): void {
    this.begin();
  }

  private begin(): number {
    clearTimeout(this.timer);
    this.generation += 1;
    return this.generation;
  }
}

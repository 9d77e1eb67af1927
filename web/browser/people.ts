import { type Browser, type BrowserContext, chromium, type Locator, type Page } from "playwright-core";
import { expect } from "vitest";
import type { Server } from "./server";

const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

export function launch(): Promise<Browser> {
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });
}

type Look = NonNullable<Parameters<Browser["newContext"]>[0]>;

/** Somebody at a browser of their own. Whatever the page should not do is collected. */
export class Person {
  readonly faults: string[] = [];

  private constructor(
    readonly name: string,
    readonly context: BrowserContext,
    readonly page: Page,
    private readonly server: Server,
  ) {}

  static async at(browser: Browser, server: Server, name: string, look: Look = {}): Promise<Person> {
    const context = await browser.newContext({ viewport: { width: 1200, height: 800 }, ...look });
    context.setDefaultTimeout(15_000);
    const person = new Person(name, context, await context.newPage(), server);
    person.watch(person.page);
    return person;
  }

  /** Signs in by the form and opens a room. */
  async enter(room?: string): Promise<void> {
    await this.page.goto(this.server.url);
    await this.page.getByLabel("Your name").fill(this.name);
    await this.page.getByRole("button", { name: "Start chatting" }).click();
    if (room) await this.open(room);
  }

  async open(room: string): Promise<void> {
    const field = this.page.getByLabel("Find, open or create a room");
    if (!(await field.isVisible())) await this.page.getByRole("button", { name: "Show rooms" }).click();
    await field.fill(room);
    await field.press("Enter");
    await this.page.getByRole("heading", { level: 1, name: room }).waitFor();
    await this.composer.waitFor();
  }

  /** A second tab of the same browser. */
  async tab(room: string): Promise<Page> {
    const page = await this.context.newPage();
    this.watch(page);
    await page.goto(`${this.server.url}/#/${room}`);
    await page.locator("#composer").waitFor();
    return page;
  }

  get composer(): Locator {
    return this.page.locator("#composer");
  }

  async say(text: string): Promise<void> {
    await this.composer.fill(text);
    await this.composer.press("Enter");
  }

  /** The row of the message with this text. */
  row(text: string | RegExp): Locator {
    return rowIn(this.page, text);
  }

  async sees(text: string | RegExp): Promise<void> {
    await this.row(text).waitFor();
  }

  /** Hovers over a message and uses one of its buttons. */
  async act(text: string, name: string): Promise<void> {
    await this.row(text).hover();
    await this.row(text).getByRole("button", { name, exact: true }).click();
  }

  async hasStatus(text: string, status: string): Promise<void> {
    await this.row(text).locator(`[data-status="${status}"]`).waitFor({ state: "attached" });
  }

  /** Texts of the rows in the page, in order. */
  texts(page = this.page): Promise<string[]> {
    return page.locator("[data-row] p.text").allInnerTexts();
  }

  async leave(): Promise<void> {
    expect(this.faults).toEqual([]);
    await this.context.close();
  }

  private watch(page: Page): void {
    page.on("pageerror", (error) => this.faults.push(error.stack ?? error.message));
    page.on("dialog", (dialog) => this.faults.push(`dialog: ${dialog.message()}`));
    page.on("console", (message) => {
      // A server that is killed on purpose makes Chromium complain; nothing else may.
      const text = message.text();
      const expected = /WebSocket connection|Failed to load resource/.test(text);
      if (message.type() === "error" && !expected) this.faults.push(text);
    });
  }
}

export function rowIn(page: Page, text: string | RegExp): Locator {
  return page.locator("[data-row]").filter({ has: page.locator("p.text", { hasText: text }) });
}

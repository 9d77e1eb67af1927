import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const BINARY =
  process.env.DARDA_STANDALONE ?? fileURLToPath(new URL("../../target/debug/standalone", import.meta.url));

/** The real server with its own data folder. It can be killed and started again on the same address. */
export class Server {
  url = "";
  private process: ChildProcess | undefined;
  private readonly data = mkdtempSync(join(tmpdir(), "darda-web-"));
  private stderr = "";

  static async start(): Promise<Server> {
    const server = new Server();
    await server.start();
    return server;
  }

  /** Starts it, again on the address that it had. */
  async start(): Promise<void> {
    const child = spawn(BINARY, [], {
      stdio: ["ignore", "pipe", "pipe"],
      env: {
        ...process.env,
        DARDA_HTTP_ADDR: this.url ? new URL(this.url).host : "127.0.0.1:0",
        DARDA_ADMIN_ADDR: "127.0.0.1:0",
        DARDA_DATA_DIR: this.data,
        DARDA_DRAIN_SECS: "3",
        DARDA_LIMIT_SENDS_PER_SEC: "100000",
        DARDA_LIMIT_SENDS_BURST: "100000",
        DARDA_LIMIT_JOINS_PER_SEC: "1000",
      },
    });
    this.process = child;
    child.stderr?.on("data", (text) => {
      this.stderr += text;
    });
    this.url = await new Promise<string>((resolve, reject) => {
      child.once("error", reject);
      child.once("exit", (code) => reject(new Error(`${BINARY} ended with ${code}: ${this.stderr}`)));
      createInterface({ input: child.stdout as NonNullable<typeof child.stdout> }).on("line", (line) => {
        const url = /^Darda is listening on (http:\/\/\S+)/.exec(line)?.[1];
        if (url) resolve(url.replace(/\/$/, ""));
      });
    });
    child.removeAllListeners("exit");
  }

  /** `kill -9`. */
  kill(): Promise<void> {
    return this.end("SIGKILL");
  }

  /** What Kubernetes and systemd do: the server says good-bye to its clients, then ends. */
  terminate(): Promise<void> {
    return this.end("SIGTERM");
  }

  private async end(signal: NodeJS.Signals): Promise<void> {
    const child = this.process;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const gone = once(child, "exit");
    child.kill(signal);
    await gone;
  }

  async stop(): Promise<void> {
    await this.kill();
    rmSync(this.data, { recursive: true, force: true });
  }

  /** Calls the HTTP API as a user. */
  async call<T>(user: string, method: string, path: string, body?: unknown): Promise<T> {
    const answer = await fetch(this.url + path, {
      method,
      headers: { "x-darda-user": user, "content-type": "application/json" },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`);
    return (answer.status === 204 ? undefined : await answer.json()) as T;
  }

  /** Makes a public room with these members. */
  async room(id: string, ...users: string[]): Promise<void> {
    await this.call(users[0] ?? "owner", "POST", "/v1/rooms", { id, kind: "public", name: id });
    for (const user of users.slice(1)) await this.call(user, "PUT", `/v1/rooms/${id}/members/me`);
  }

  async say(user: string, room: string, text: string, more: object = {}): Promise<number> {
    const body = { id: crypto.randomUUID(), text, ...more };
    const { seq } = await this.call<{ seq: number }>(user, "POST", `/v1/rooms/${room}/messages`, body);
    return seq;
  }

  /** All texts of a room, oldest first. */
  async texts(user: string, room: string): Promise<string[]> {
    interface Page {
      items: { seq: number; text: string | null }[];
      next: string | null;
    }
    const texts: string[] = [];
    for (let cursor = ""; ; ) {
      const path = `/v1/rooms/${room}/messages?after=0&limit=200${cursor && `&cursor=${cursor}`}`;
      const page: Page = await this.call(user, "GET", path);
      texts.push(...page.items.flatMap((m) => (m.text === null ? [] : [m.text])));
      if (page.next === null) return texts;
      cursor = encodeURIComponent(page.next);
    }
  }
}

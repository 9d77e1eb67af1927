import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import type { Config } from "./config";
import type { Input } from "./effect";
import { Engine, type Saved } from "./engine";

interface Scenario {
  name: string;
  description: string;
  config?: Partial<Config>;
  saved?: Partial<Saved>;
  random: number;
  steps: {
    at: number;
    random?: number;
    input: Record<string, Record<string, unknown>>;
    expect: unknown[];
    wake?: number | null;
  }[];
  state?: Saved;
}

const folder = fileURLToPath(new URL("../../../vectors/resume/", import.meta.url));
const files = readdirSync(folder).filter((file) => file.endsWith(".json"));

describe("the shared scenarios", () => {
  test("are all there", () => {
    expect(files.length).toBeGreaterThanOrEqual(20);
  });

  test.each(files)("%s", (file) => {
    const scenario: Scenario = JSON.parse(readFileSync(folder + file, "utf8"));
    const engine = new Engine(scenario.config ?? {}, scenario.saved);
    scenario.steps.forEach((step, index) => {
      const effects = engine.handle(inputOf(step.input), step.at, step.random ?? scenario.random);
      const seen = effects.map(({ type, ...rest }) => ({ [type]: rest }));
      expect(seen, `step ${index}: ${JSON.stringify(step.input)}`).toEqual(step.expect);
      if (step.wake !== undefined) expect(engine.wakeAt(), `wake of step ${index}`).toBe(step.wake);
    });
    if (scenario.state) expect(engine.saved()).toEqual(scenario.state);
  });
});

test("a refusal with a code of a later version is final", () => {
  const engine = new Engine({ hello: { user: "alice" } });
  const act = { type: "send", id: "a1", room: "r", text: "hi" } as const;
  const frames = [
    { type: "welcome", user: "alice", heartbeat_secs: 25, limits: {} },
    { type: "error", id: "a1", code: "on_strike", message: "no", retry_after_ms: 5 },
  ];
  engine.handle({ type: "submit", act }, 0, 0.5);
  engine.handle({ type: "start" }, 0, 0.5);
  const effects = frames.map((frame) => engine.handle(inputOf({ frame: { conn: 1, frame } }), 0, 0.5));
  expect(effects[1]).toEqual([
    { type: "outbox", id: "a1", state: "failed", code: "on_strike", message: "no" },
  ]);
});

function inputOf(input: Record<string, Record<string, unknown>>): Input {
  const [type, fields] = Object.entries(input)[0] ?? [];
  return { type, ...fields } as Input;
}

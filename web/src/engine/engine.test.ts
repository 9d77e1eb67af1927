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

function inputOf(input: Record<string, Record<string, unknown>>): Input {
  const [type, fields] = Object.entries(input)[0] ?? [];
  return { type, ...fields } as Input;
}

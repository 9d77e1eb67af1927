import { defineConfig } from "vitest/config";

/** Tests in a real Chromium against the real server; they share the machine, so one at a time. */
export default defineConfig({
  test: {
    include: ["browser/**/*.test.ts"],
    environment: "node",
    fileParallelism: false,
    testTimeout: 90_000,
    hookTimeout: 60_000,
    // What is waited for comes at once on a machine that does nothing else.
    expect: { poll: { timeout: 10_000 } },
  },
});

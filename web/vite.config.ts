import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { defineConfig, type Plugin } from "vite";

const SERVER = "http://127.0.0.1:8080";

/** Two pages: the chat (`/`) and the readable API description (`/docs`). */
export default defineConfig({
  build: {
    target: "es2022",
    // The server's Content-Security-Policy allows files of our own origin, nothing inline.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rollupOptions: { input: { index: "index.html", docs: "docs.html" } },
  },
  plugins: [packed()],
  server: {
    proxy: {
      // The server answers pages of its own origin only, so the proxy speaks as one.
      "/v1": { target: SERVER, ws: true, changeOrigin: true, headers: { origin: SERVER } },
      "/openapi.json": SERVER,
    },
  },
});

/** Writes `<file>.gz` beside every text file, which the server sends to those who take gzip. */
function packed(): Plugin {
  let folder = "";
  return {
    name: "packed",
    apply: "build",
    configResolved(config) {
      folder = config.build.outDir;
    },
    closeBundle() {
      for (const entry of readdirSync(folder, { recursive: true, encoding: "utf8" })) {
        if (!/\.(js|css|html|svg|webmanifest)$/.test(entry)) continue;
        const file = join(folder, entry);
        writeFileSync(`${file}.gz`, gzipSync(readFileSync(file), { level: 9 }));
      }
    },
  };
}

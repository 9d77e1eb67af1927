import { defineConfig } from "vite";

/** Two pages: the chat (`/`) and the readable API description (`/docs`). */
export default defineConfig({
  build: {
    target: "es2022",
    // The server's Content-Security-Policy allows files of our own origin, nothing inline.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rollupOptions: { input: { index: "index.html", docs: "docs.html" } },
  },
  server: {
    proxy: {
      "/v1": { target: "http://127.0.0.1:8080", ws: true, changeOrigin: true },
      "/openapi.json": "http://127.0.0.1:8080",
    },
  },
});

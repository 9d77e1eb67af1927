import { expect, test } from "vitest";
import { linkify } from "./linkify";

function links(text: string): string[] {
  return linkify(text).flatMap((p) => (p.kind === "link" ? [p.text] : []));
}

test("the pieces put together are the text", () => {
  for (const text of [
    "",
    "plain",
    "see https://a.example/x, or http://b.example.",
    "a\n https://c.example \n",
  ])
    expect(
      linkify(text)
        .map((p) => p.text)
        .join(""),
    ).toBe(text);
});

test("http and https addresses become links", () => {
  expect(linkify("see https://a.example/x?y=1#z now")).toEqual([
    { kind: "text", text: "see " },
    { kind: "link", text: "https://a.example/x?y=1#z", href: "https://a.example/x?y=1#z" },
    { kind: "text", text: " now" },
  ]);
});

test("nothing else does", () => {
  for (const text of [
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "file:///etc/passwd",
    "ftp://a.example",
    "www.a.example",
    "https://",
    "xhttps://a.example",
    "<img src=x onerror=alert(1)>",
  ])
    expect(links(text), text).toEqual([]);
});

test("punctuation around a link is not part of it", () => {
  expect(links("(https://a.example/b).")).toEqual(["https://a.example/b"]);
  expect(links("https://a.example/b, https://a.example/c!")).toEqual([
    "https://a.example/b",
    "https://a.example/c",
  ]);
  expect(links("https://en.example/wiki/Rust_(language)")).toEqual([
    "https://en.example/wiki/Rust_(language)",
  ]);
  expect(links('"https://a.example"')).toEqual(["https://a.example"]);
});

test("a very long text is quick", () => {
  const started = performance.now();
  linkify(`https://a.example/${".".repeat(16_000)}`);
  linkify(`https://a.example/${"(".repeat(8_000)}${")".repeat(8_000)}`);
  linkify(`https://a.example/${")".repeat(16_000)}`);
  linkify(`https://a.example/${".".repeat(16_000)}a`);
  expect(performance.now() - started).toBeLessThan(500);
});

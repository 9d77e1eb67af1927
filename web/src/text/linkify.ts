export type Piece = { kind: "text"; text: string } | { kind: "link"; text: string; href: string };

const CANDIDATE = /\bhttps?:\/\/[^\s<>"'`{}|\\^]+/gi;
const TRAILING = /[.,;:!?…]+$/;

/** Splits a text into plain pieces and http(s) links. Nothing else ever becomes a link. */
export function linkify(text: string): Piece[] {
  const pieces: Piece[] = [];
  let from = 0;
  const plain = (to: number) => {
    if (to > from) pieces.push({ kind: "text", text: text.slice(from, to) });
  };
  for (const match of text.matchAll(CANDIDATE)) {
    const shown = trimmed(match[0]);
    const href = httpUrl(shown);
    if (!href) continue;
    plain(match.index);
    pieces.push({ kind: "link", text: shown, href });
    from = match.index + shown.length;
  }
  plain(text.length);
  return pieces;
}

/** Punctuation after a link belongs to the sentence, and so does a bracket that was opened before the link. */
function trimmed(link: string): string {
  let out = link;
  for (;;) {
    const before = out;
    out = out.replace(TRAILING, "");
    for (const [open, close] of [
      ["(", ")"],
      ["[", "]"],
    ] as const) {
      if (out.endsWith(close) && count(out, close) > count(out, open)) out = out.slice(0, -1);
    }
    if (out === before) return out;
  }
}

function count(text: string, char: string): number {
  return text.split(char).length - 1;
}

function httpUrl(text: string): string | null {
  try {
    const url = new URL(text);
    return (url.protocol === "http:" || url.protocol === "https:") && url.hostname ? url.href : null;
  } catch {
    return null;
  }
}

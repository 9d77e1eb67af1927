export type Piece = { kind: "text"; text: string } | { kind: "link"; text: string; href: string };

const CANDIDATE = /\bhttps?:\/\/[^\s<>"'`{}|\\^]+/gi;
const TRAILING = ".,;:!?…";

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
  const surplus = { ")": closedMore(link, "(", ")"), "]": closedMore(link, "[", "]") };
  let end = link.length;
  for (; end > 0; end--) {
    const last = link[end - 1] ?? "";
    if (last === ")" || last === "]") {
      if (surplus[last] <= 0) break;
      surplus[last] -= 1;
    } else if (!TRAILING.includes(last)) break;
  }
  return link.slice(0, end);
}

function closedMore(text: string, open: string, close: string): number {
  let more = 0;
  for (const char of text) more += char === close ? 1 : char === open ? -1 : 0;
  return more;
}

function httpUrl(text: string): string | null {
  try {
    const url = new URL(text);
    return (url.protocol === "http:" || url.protocol === "https:") && url.hostname ? url.href : null;
  } catch {
    return null;
  }
}

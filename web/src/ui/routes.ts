/** The open room, and the message in it to show, live in the address: `#/general` or `#/general/42`. */

export interface Route {
  room: string;
  seq?: number;
}

export function parseRoute(hash: string): Route | null {
  const match = /^#\/([a-z0-9][a-z0-9-]{0,63})(?:\/(\d{1,16}))?$/.exec(hash);
  if (!match?.[1]) return null;
  return match[2] ? { room: match[1], seq: Number(match[2]) } : { room: match[1] };
}

export function hrefOf(room: string, seq?: number): string {
  return `#/${room}${seq === undefined ? "" : `/${seq}`}`;
}

export function goTo(room: string, seq?: number): void {
  const href = hrefOf(room, seq);
  // The address is followed when it changes; asking for the same again must work too.
  if (location.hash === href) window.dispatchEvent(new HashChangeEvent("hashchange"));
  else location.hash = href;
}

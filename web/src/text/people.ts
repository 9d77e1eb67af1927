/** How a person without a picture is recognised: by initials on a colour, both always the same for the same name. */

export const TINTS = 12;

export function tintOf(name: string): number {
  let hash = 2166136261;
  for (let i = 0; i < name.length; i++) hash = Math.imul(hash ^ name.charCodeAt(i), 16777619);
  return ((hash ^ (hash >>> 15)) >>> 0) % TINTS;
}

export function initialsOf(name: string): string {
  const words = name.split(/[^\p{L}\p{N}]+/u).filter(Boolean);
  const first = words[0] ?? "?";
  const second = words[1];
  const letters = second ? [...first].slice(0, 1).concat([...second].slice(0, 1)) : [...first].slice(0, 2);
  return letters.join("").toUpperCase();
}

const USER = /^[a-z0-9][a-z0-9._-]{0,63}$/;
const ROOM = /^[a-z0-9][a-z0-9-]{0,63}$/;

/** The user id that a typed name means, or null when none can be made of it. */
export function userIdOf(typed: string): string | null {
  const id = typed.trim().toLowerCase().replace(/\s+/g, ".");
  return USER.test(id) ? id : null;
}

/** The room id that a typed name means, or null. */
export function roomIdOf(typed: string): string | null {
  const id = typed
    .trim()
    .replace(/^#/, "")
    .normalize("NFKD")
    .toLowerCase()
    .replace(/\p{M}/gu, "")
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-+|-+$/g, "")
    .slice(0, 64);
  return ROOM.test(id) ? id : null;
}

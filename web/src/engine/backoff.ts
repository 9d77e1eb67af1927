/** How long to wait before the next try: doubling, capped, and half of it random so that clients spread out. */
export function backoffMs(attempt: number, random: number, baseMs = 400, capMs = 20_000): number {
  const ceiling = Math.min(capMs, baseMs * 2 ** Math.min(attempt, 16));
  return Math.round(ceiling / 2 + (ceiling / 2) * random);
}

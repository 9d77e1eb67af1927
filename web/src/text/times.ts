const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "short" });
const weekday = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const longDay = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "long", year: "numeric" });
const shortDay = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });

export function clockTime(at: string): string {
  return clock.format(new Date(at));
}

export function fullTime(at: string): string {
  return full.format(new Date(at));
}

/** A day as one comparable number, in the reader's time zone. */
export function dayOf(at: string): number {
  const d = new Date(at);
  return d.getFullYear() * 10_000 + d.getMonth() * 100 + d.getDate();
}

export function dayLabel(at: string, now: Date): string {
  const day = dayOf(at);
  const yesterday = new Date(now.getFullYear(), now.getMonth(), now.getDate() - 1);
  if (day === dayOf(now.toISOString())) return "Today";
  if (day === dayOf(yesterday.toISOString())) return "Yesterday";
  const date = new Date(at);
  return date.getFullYear() === now.getFullYear() ? weekday.format(date) : longDay.format(date);
}

/** Short enough for a list: the clock today, the day otherwise. */
export function briefTime(at: string, now: Date): string {
  return dayOf(at) === dayOf(now.toISOString()) ? clockTime(at) : shortDay.format(new Date(at));
}

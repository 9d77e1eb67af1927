const PATHS = {
  menu: "M3 5.5h14M3 10h14M3 14.5h14",
  search: "M9 15A6 6 0 1 0 9 3a6 6 0 0 0 0 12zm4.3-1.7L17 17",
  people:
    "M7.5 9.5a3 3 0 1 0 0-6 3 3 0 0 0 0 6zM2 16.5c.4-3 2.6-4.5 5.5-4.5s5.1 1.5 5.5 4.5M13 3.8a3 3 0 0 1 0 5.4M15 12.4c1.7.6 2.8 2 3 4.1",
  plus: "M10 4v12M4 10h12",
  close: "M5 5l10 10M15 5L5 15",
  send: "M4 10L3 3.5l14.5 6.5L3 16.5 4 10zm0 0h7",
  reply: "M8 5L3.5 9.5 8 14M4 9.5h7a5 5 0 0 1 5 5v1",
  edit: "M3.5 16.5l.8-3.4L13 4.4a1.7 1.7 0 0 1 2.4 0l.2.2a1.7 1.7 0 0 1 0 2.4l-8.7 8.7-3.4.8z",
  trash:
    "M4 5.5h12M8 5.5V4a1 1 0 0 1 1-1h2a1 1 0 0 1 1 1v1.5M5.5 5.5l.7 10a1 1 0 0 0 1 1h5.6a1 1 0 0 0 1-1l.7-10",
  smile: "M10 17a7 7 0 1 0 0-14 7 7 0 0 0 0 14zM7.2 11.8c1.4 2 4.2 2 5.6 0M7.7 8.2v.1M12.3 8.2v.1",
  down: "M10 4v11M5.5 10.5L10 15l4.5-4.5",
  leave: "M8 3.5H5a1 1 0 0 0-1 1v11a1 1 0 0 0 1 1h3M12.5 6.5L16 10l-3.5 3.5M16 10H8",
  hash: "M8 3.5l-1.5 13M13.5 3.5L12 16.5M3.5 7.5h13.2M3.2 12.5h13.2",
  lock: "M5.5 9h9a1 1 0 0 1 1 1v6a1 1 0 0 1-1 1h-9a1 1 0 0 1-1-1v-6a1 1 0 0 1 1-1zM7 9V6.5a3 3 0 0 1 6 0V9",
  book: "M4 4.5A1.5 1.5 0 0 1 5.5 3H16v14H5.5A1.5 1.5 0 0 1 4 15.5v-11zM4 14.5A1.5 1.5 0 0 1 5.5 13H16",
  clock: "M10 16.5a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13zM10 6.5V10l2.3 1.6",
  check: "M4.5 10.5l3.6 3.6 7.4-8",
  checks: "M2 10.5l3.6 3.6 7-8M9.2 12.8l1.3 1.3 7.4-8",
  alert: "M10 6.5v4.2M10 13.4v.1M10 17a7 7 0 1 0 0-14 7 7 0 0 0 0 14z",
} as const;

export type IconName = keyof typeof PATHS;

/** A line drawing beside a text or inside a labelled button; it says nothing of its own. */
export function Icon({ name, size = 18 }: { name: IconName; size?: number }) {
  return (
    <svg class="icon" width={size} height={size} viewBox="0 0 20 20" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}

/**
 * A long list of which only the rows near the viewport are in the page. Heights are measured as rows appear; what a person
 * is looking at stays where it is when rows are added above, measured or changed.
 */
import type { ComponentChildren, RefObject } from "preact";
import { useEffect, useImperativeHandle, useLayoutEffect, useReducer, useRef } from "preact/hooks";

export interface ListHandle {
  /** Brings a row into view; false when there is no such row. */
  show(key: string, place: "middle" | "nearest"): boolean;
  toEnd(): void;
}

interface Props<T extends { key: string }> {
  items: readonly T[];
  estimate: (item: T, width: number) => number;
  row: (item: T, index: number) => ComponentChildren;
  /** New rows at the end are followed while the end is in view. */
  follow: boolean;
  /** The row that has the focus, or gets it by Tab: it stays in the page, so the focus is not lost. */
  keep: string;
  onNearStart: () => void;
  onNearEnd: () => void;
  onAtEnd: (atEnd: boolean) => void;
  handle: RefObject<ListHandle | null>;
  label: string;
}

const OVERSCAN_PX = 600;
const NEAR_PX = 1_200;
const END_SLACK_PX = 32;

/** What the list remembers between renders; changing it draws nothing. */
class Layout {
  heights = new Map<string, number>();
  offsets = new Float64Array(1);
  indexes = new Map<string, number>();
  items: readonly { key: string }[] = [];
  width = 0;
  start = 0;
  end = 0;
  /** The row that stays where it is, and how far below the top of the viewport. */
  anchor: { key: string; offset: number } | null = null;
  atEnd = true;
  /** Where the viewport was when the anchor was chosen; elsewhere, a person has scrolled since. */
  seen = 0;
  /** The anchor was chosen to go there, not to stay. */
  aimed = false;

  get total(): number {
    return this.offsets[this.items.length] ?? 0;
  }

  place<T extends { key: string }>(items: readonly T[], estimate: (item: T, width: number) => number): void {
    if (items !== this.items) {
      this.indexes = new Map();
      for (let i = 0; i < items.length; i++) this.indexes.set((items[i] as T).key, i);
    }
    this.items = items;
    if (this.offsets.length < items.length + 1) this.offsets = new Float64Array(items.length * 2 + 1);
    let y = 0;
    for (let i = 0; i < items.length; i++) {
      const item = items[i] as T;
      this.offsets[i] = y;
      y += this.heights.get(item.key) ?? estimate(item, this.width);
    }
    this.offsets[items.length] = y;
  }

  top(index: number): number {
    return this.offsets[index] ?? 0;
  }

  /** The row at this height. */
  indexAt(y: number): number {
    let low = 0;
    let high = this.items.length - 1;
    while (low < high) {
      const mid = (low + high + 1) >> 1;
      if (this.top(mid) <= y) low = mid;
      else high = mid - 1;
    }
    return low;
  }

  hold(scrollTop: number): void {
    const index = this.indexAt(scrollTop);
    const item = this.items[index];
    this.seen = scrollTop;
    this.anchor = item ? { key: item.key, offset: this.top(index) - scrollTop } : null;
  }

  wanted(scrollTop: number, height: number): number {
    const bottom = Math.max(0, this.total - height);
    if (this.atEnd) return bottom;
    const index = this.anchor ? this.indexes.get(this.anchor.key) : undefined;
    const want = index === undefined ? scrollTop : this.top(index) - (this.anchor?.offset ?? 0);
    return Math.min(bottom, Math.max(0, want));
  }

  /** Chooses the rows to draw; true when they are others than before. */
  choose(scrollTop: number, height: number): boolean {
    const start = this.indexAt(scrollTop - OVERSCAN_PX);
    const end = Math.min(this.items.length, this.indexAt(scrollTop + height + OVERSCAN_PX) + 1);
    const other = start !== this.start || end !== this.end;
    this.start = start;
    this.end = end;
    return other;
  }
}

export function VirtualList<T extends { key: string }>(props: Props<T>) {
  const { items, estimate } = props;
  const box = useRef<HTMLElement>(null);
  const above = useRef<HTMLDivElement>(null);
  const rows = useRef<HTMLOListElement>(null);
  const below = useRef<HTMLDivElement>(null);
  const [, draw] = useReducer((n: number) => n + 1, 0);
  const kept = useRef<Layout>(undefined);
  if (!kept.current) kept.current = new Layout();
  const layout = kept.current;
  const latest = useRef(props);
  latest.current = props;

  const el = box.current;
  if (items !== layout.items) {
    if (el && layout.items.length > 0 && !layout.atEnd) layout.hold(el.scrollTop);
    layout.place(items, estimate);
    layout.choose(layout.wanted(el?.scrollTop ?? 0, el?.clientHeight ?? 800), el?.clientHeight ?? 800);
  }

  const settle = () => {
    const view = box.current;
    if (!view || !rows.current || !above.current || !below.current) return;
    if (!layout.aimed && Math.abs(view.scrollTop - layout.seen) > 1) observe(view);
    layout.aimed = false;
    let changed = false;
    for (const child of rows.current.children) {
      const key = (child as HTMLElement).dataset.key ?? "";
      const height = child.getBoundingClientRect().height;
      if (Math.abs((layout.heights.get(key) ?? -1) - height) < 0.5) continue;
      layout.heights.set(key, height);
      changed = true;
    }
    if (changed) layout.place(layout.items as readonly T[], latest.current.estimate);
    const kept = rows.current.querySelector<HTMLElement>(":scope > .list-kept");
    if (kept) {
      const y = layout.top(layout.indexes.get(kept.dataset.key ?? "") ?? 0);
      kept.style.top = `${y - layout.top(layout.start)}px`;
    }
    above.current.style.height = `${layout.top(layout.start)}px`;
    below.current.style.height = `${layout.total - layout.top(layout.end)}px`;
    const height = view.clientHeight;
    const want = layout.wanted(view.scrollTop, height);
    if (Math.abs(view.scrollTop - want) > 0.5) view.scrollTop = want;
    layout.seen = view.scrollTop;
    if (layout.choose(want, height)) draw(0);
    else near(want, height);
  };

  const near = (scrollTop: number, height: number) => {
    if (scrollTop < NEAR_PX) latest.current.onNearStart();
    if (layout.total - scrollTop - height < NEAR_PX) latest.current.onNearEnd();
  };

  /** A person has scrolled: what is in view now is what shall stay. */
  const observe = (view: HTMLElement) => {
    const below = view.scrollHeight - view.scrollTop - view.clientHeight;
    const atEnd = latest.current.follow && below < END_SLACK_PX;
    if (atEnd !== layout.atEnd) {
      layout.atEnd = atEnd;
      latest.current.onAtEnd(atEnd);
    }
    layout.hold(view.scrollTop);
  };

  const scrolled = () => {
    const view = box.current;
    if (!view) return;
    if (Math.abs(view.scrollTop - layout.seen) > 1) observe(view);
    const { scrollTop, clientHeight } = view;
    if (layout.choose(scrollTop, clientHeight)) draw(0);
    else near(scrollTop, clientHeight);
  };

  useLayoutEffect(settle);

  useEffect(() => {
    const view = box.current;
    const inside = rows.current;
    if (!view || !inside) return;
    const observer = new ResizeObserver(() => {
      if (view.clientWidth !== layout.width) {
        layout.width = view.clientWidth;
        layout.heights.clear();
      }
      settle();
    });
    observer.observe(view);
    observer.observe(inside);
    return () => observer.disconnect();
  }, []);

  useImperativeHandle(props.handle, () => ({
    show(key, place) {
      const index = layout.indexes.get(key);
      const view = box.current;
      if (index === undefined || !view) return false;
      const height = layout.top(index + 1) - layout.top(index);
      const y = layout.top(index) - view.scrollTop;
      const inView = y >= 0 && y + height <= view.clientHeight;
      if (place === "nearest" && inView) return true;
      const offset =
        place === "middle"
          ? Math.max(0, (view.clientHeight - height) / 3)
          : y < 0
            ? 8
            : view.clientHeight - height - 8;
      layout.anchor = { key, offset };
      layout.aimed = true;
      if (layout.atEnd) latest.current.onAtEnd(false);
      layout.atEnd = false;
      draw(0);
      return true;
    },
    toEnd() {
      if (!layout.atEnd) latest.current.onAtEnd(true);
      layout.atEnd = layout.aimed = true;
      draw(0);
    },
  }));

  const outside = (index: number) => index < layout.start || index >= layout.end;
  const drawn = items.slice(layout.start, layout.end).map((item, i) => ({ item, index: layout.start + i }));
  const index = layout.indexes.get(props.keep) ?? -1;
  const item = items[index];
  if (item && outside(index)) drawn.splice(index < layout.start ? 0 : drawn.length, 0, { item, index });

  return (
    <section class="list" ref={box} onScroll={scrolled} aria-label={props.label} tabIndex={-1}>
      <div ref={above} />
      <ol ref={rows}>
        {drawn.map(({ item, index }) => (
          <li
            key={item.key}
            data-key={item.key}
            class={outside(index) ? "list-kept" : undefined}
            aria-setsize={items.length}
            aria-posinset={index + 1}
          >
            {props.row(item, index)}
          </li>
        ))}
      </ol>
      <div ref={below} />
    </section>
  );
}

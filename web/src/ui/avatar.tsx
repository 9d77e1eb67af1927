import { initialsOf, tintOf } from "../text/people";

/** Initials on the person's colour. The name itself always stands beside it. */
export function Avatar({
  name,
  size = "m",
  status,
}: {
  name: string;
  size?: "s" | "m" | "l";
  status?: string;
}) {
  return (
    <span class={`avatar avatar-${size} tint-${tintOf(name)}`} aria-hidden="true">
      {initialsOf(name)}
      {status && <span class={`dot dot-${status}`} />}
    </span>
  );
}

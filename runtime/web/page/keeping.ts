import { read, written } from "./settings.ts";
import type { Kept } from "./settings.ts";

const key = "culm";

/** What a link says, in the part of the address that no server sees; else what this browser kept. */
export function load(): Kept {
  const fragment = location.hash.slice(1);
  if (fragment === "") return read(stored() ?? "");
  // From here on this browser's store is the one that counts: what is changed now survives a reload.
  history.replaceState(null, "", location.pathname + location.search);
  return read(fragment);
}

function stored(): string | null {
  try {
    return localStorage.getItem(key);
  } catch {
    return null; // Storage may be forbidden: then nothing is kept.
  }
}

export function save(kept: Kept): void {
  try {
    localStorage.setItem(key, written(kept));
  } catch {
    // As above, or full.
  }
}

/** An address that opens this page with the same prompt and settings. */
export function linkTo(kept: Kept): string {
  const url = new URL(location.href);
  url.hash = written(kept);
  return url.href;
}

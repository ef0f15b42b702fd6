import { createHash } from "node:crypto";
import { readdirSync, readFileSync, rmSync, statSync, utimesSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";

/** Where compiled models are kept: CULM_CACHE, or the user's cache folder. Null when CULM_CACHE is "off". */
export function cacheFolder(): string | null {
  const { CULM_CACHE: own, XDG_CACHE_HOME: shared } = process.env;
  if (own === "off") return null;
  if (own !== undefined && own !== "") return own;
  return join(shared !== undefined && shared !== "" ? shared : join(homedir(), ".cache"), "culm");
}

/** A hash of the program's own files below `folders`, so that a changed compiler never finds what an older one has compiled. */
export function codeFingerprint(folders: readonly string[]): string {
  const hash = createHash("sha256");
  const walk = (folder: string): void => {
    for (const entry of readdirSync(folder, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1))) {
      const path = join(folder, entry.name);
      if (entry.isDirectory()) walk(path);
      else if (/(?<!\.d)\.(ts|js)$/.test(entry.name)) hash.update(`\0${entry.name}\0`).update(readFileSync(path));
    }
  };
  for (const folder of folders) walk(folder);
  return hash.digest("hex");
}

/** Marks an entry as used now, so that `trimCache` keeps it. */
export function touch(entry: string): void {
  const now = new Date();
  try {
    utimesSync(entry, now, now);
  } catch {
    // A cache that is read-only, or emptied meanwhile, serves all the same.
  }
}

/** Removes all but the `keep` entries of a folder that were used last. */
export function trimCache(folder: string, keep: number): void {
  try {
    readdirSync(folder)
      .map((name) => join(folder, name))
      .map((path) => ({ path, time: statSync(path).mtimeMs }))
      .sort((a, b) => b.time - a.time)
      .slice(keep)
      .forEach(({ path }) => rmSync(path, { recursive: true, force: true }));
  } catch {
    // Another process may be trimming too.
  }
}

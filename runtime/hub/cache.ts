import { randomBytes } from "node:crypto";
import { copyFile, mkdir, readFile, rename, rm, stat, symlink, utimes, writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import { dirname, join, relative } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { isCommit } from "./names.ts";

/**
 * One repository in the cache of the Hugging Face libraries:
 *
 *     models--org--name/
 *       blobs/<etag>                     a file's content, under the hash of it
 *       blobs/<etag>.incomplete          what has arrived of it
 *       refs/<branch or tag>             a commit hash
 *       snapshots/<commit>/<file>        a link to the blob
 *       .no_exist/<commit>/<file>        empty: that commit has no such file
 *     .locks/models--org--name/
 */
export interface RepositoryCache {
  readonly folder: string;
  readonly locks: string;
}

export function repositoryCache(cacheDir: string, repo: string): RepositoryCache {
  const name = `models--${repo.replace("/", "--")}`;
  return { folder: join(cacheDir, name), locks: join(cacheDir, ".locks", name) };
}

export function blobPath({ folder }: RepositoryCache, etag: string): string {
  return join(folder, "blobs", etag);
}

export function snapshotPath({ folder }: RepositoryCache, commit: string): string {
  return join(folder, "snapshots", commit);
}

/** The commit that a branch or tag was when it was last asked for; null when it never was. */
export async function readRef({ folder }: RepositoryCache, revision: string): Promise<string | null> {
  const text = await readFile(join(folder, "refs", revision), "utf8").catch(() => "");
  return isCommit(text.trim()) ? text.trim() : null;
}

export async function writeRef(cache: RepositoryCache, revision: string, commit: string): Promise<void> {
  if ((await readRef(cache, revision)) !== commit)
    await appear(join(cache.folder, "refs", revision), (temporary) => writeFile(temporary, commit));
}

/** Whether the commit is known to have no such file. */
export async function isMarkedAbsent({ folder }: RepositoryCache, commit: string, file: string): Promise<boolean> {
  return (await sizeOf(join(folder, ".no_exist", commit, file))) !== null;
}

export async function markAbsent({ folder }: RepositoryCache, commit: string, file: string): Promise<void> {
  const marker = join(folder, ".no_exist", commit, file);
  await mkdir(dirname(marker), { recursive: true });
  await writeFile(marker, "");
}

/** Puts a blob into a snapshot: as a link, or as a copy where links cannot be made. */
export async function linkBlob(cache: RepositoryCache, commit: string, file: string, etag: string): Promise<void> {
  const [blob, pointer] = [blobPath(cache, etag), join(snapshotPath(cache, commit), file)];
  await appear(pointer, async (temporary) => {
    try {
      // Relative, so that the cache may be moved.
      await symlink(relative(dirname(pointer), blob), temporary);
    } catch (error) {
      if (!["EPERM", "ENOSYS", "EOPNOTSUPP", "ENOTSUP", "EINVAL"].includes(codeOf(error))) throw error;
      await copyFile(blob, temporary);
    }
  });
}

/** Bytes of a regular file, through links; null when there is none. */
export async function sizeOf(path: string): Promise<number | null> {
  const found = await stat(path).catch(() => undefined);
  return found?.isFile() === true ? found.size : null;
}

/** Makes a file appear at once: it is made under another name and renamed. */
async function appear(path: string, make: (temporary: string) => Promise<void>): Promise<void> {
  const temporary = `${path}.${randomBytes(6).toString("hex")}.tmp`;
  await mkdir(dirname(path), { recursive: true });
  try {
    await make(temporary);
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}

/** A holder renews its lock this often. One that was not renewed for so long, or whose process this machine no longer has, was left behind. */
const renewal = 5_000;
const abandoned = 60_000;

/**
 * Runs `action` while no other process does for the same blob, so that nobody downloads what another is about to have. Only traffic depends
 * on it: two who write the same blob write the same bytes to the same places.
 */
export async function withLock<T>(
  { locks }: RepositoryCache,
  etag: string,
  signal: AbortSignal | undefined,
  action: () => Promise<T>,
): Promise<T> {
  // Python's <etag>.lock is a lock of the system's on a file that stays.
  const lock = join(locks, `${etag}.held`);
  await mkdir(locks, { recursive: true });
  while (!(await take(lock))) {
    signal?.throwIfAborted();
    await sleep(100);
  }
  const renew = setInterval(() => void utimes(lock, new Date(), new Date()).catch(() => undefined), renewal).unref();
  try {
    return await action();
  } finally {
    clearInterval(renew);
    await rm(lock, { force: true });
  }
}

async function take(lock: string): Promise<boolean> {
  try {
    await writeFile(lock, `${process.pid} ${hostname()}`, { flag: "wx" });
    return true;
  } catch (error) {
    if (codeOf(error) !== "EEXIST") throw error;
    if (await isAbandoned(lock)) await rm(lock, { force: true });
    return false;
  }
}

async function isAbandoned(lock: string): Promise<boolean> {
  const [found, holder] = await Promise.all([stat(lock).catch(() => undefined), readFile(lock, "utf8").catch(() => "")]);
  if (found === undefined) return false;
  if (Date.now() - found.mtimeMs > abandoned) return true;
  const [, pid, host] = /^(\d+) (.*)$/.exec(holder) ?? [];
  if (host !== hostname()) return false;
  try {
    process.kill(Number(pid), 0);
    return false;
  } catch (error) {
    return codeOf(error) === "ESRCH";
  }
}

/** "ENOENT" and the like; empty for what is no error of the system. */
export function codeOf(error: unknown): string {
  return error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : "";
}

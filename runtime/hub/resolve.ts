import { existsSync } from "node:fs";
import { mkdir, statfs } from "node:fs/promises";
import { join } from "node:path";
import { shown, UserError } from "../errors.ts";
import { readShardIndex } from "../node/checkpoint.ts";
import { blobPath, codeOf, linkBlob, markAbsent, readRef, repositoryCache, sizeOf, snapshotPath, withLock, writeRef } from "./cache.ts";
import type { RepositoryCache } from "./cache.ts";
import { downloadBlob } from "./download.ts";
import type { RemoteFile } from "./download.ts";
import { checkListing, chooseFiles, missingFiles, optional } from "./files.ts";
import type { Part } from "./files.ts";
import { checkRevision, isCommit, isRepositoryName } from "./names.ts";
import { hubSettings } from "./options.ts";
import type { DownloadProgress, HubOptions, HubSettings } from "./options.ts";
import { HubUnavailable, retrying, send } from "./request.ts";
import type { Hub } from "./request.ts";

/**
 * The folder of a model: the one that is given, or the cache's copy of a repository of the Hugging Face hub, for which the files that are
 * not there yet are downloaded. A name that a folder or file has is that one, as in Transformers; anything else that can be the name of a
 * repository (`name` or `org/name`) is one; the rest is given back for whoever reads folders to refuse.
 *
 * A branch or tag costs one request when the cache has what it points to, a full commit hash that the cache has costs none, and offline
 * there are none at all.
 * @param options.part "tokenizer" or "config" is that alone; "model", the default, is all: configuration, weights, tokenizer, chat template
 * @throws UserError when there is no such repository or revision, it may not be read, has no safetensors, the hub cannot be reached, or the
 *   cache cannot be written; the reason of `options.signal` when that is aborted
 */
export async function resolveModel(nameOrFolder: string, options: HubOptions & { readonly part?: Part } = {}): Promise<string> {
  if (!isRepositoryName(nameOrFolder) || existsSync(nameOrFolder)) return nameOrFolder;
  options.signal?.throwIfAborted();
  const revision = checkRevision(options.revision ?? "main");
  const settings = hubSettings(options);
  const wanted: Wanted = {
    repo: nameOrFolder,
    revision,
    part: options.part ?? "model",
    cache: repositoryCache(settings.cacheDir, nameOrFolder),
  };
  if (settings.offline) return fromCache(wanted, settings);
  if (isCommit(revision) && (await isWhole(wanted, revision))) return snapshotPath(wanted.cache, revision);
  try {
    return await download(wanted, settings, options);
  } catch (error) {
    options.signal?.throwIfAborted();
    throw await explained(error, wanted, settings);
  }
}

/** What is asked for, and where it is kept. */
interface Wanted {
  readonly repo: string;
  readonly revision: string;
  readonly part: Part;
  readonly cache: RepositoryCache;
}

/** Whether a request could find nothing more. */
async function isWhole({ cache, part }: Wanted, commit: string): Promise<boolean> {
  return (await missingFiles(cache, commit, part, true)).length === 0;
}

async function fromCache({ repo, revision, part, cache }: Wanted, { cacheDir }: HubSettings): Promise<string> {
  const hint = "load it once without HF_HUB_OFFLINE and localFilesOnly (--offline), or give the cacheDir (--cache-dir) that has it";
  const commit = isCommit(revision) ? revision : await readRef(cache, revision);
  if (commit === null)
    throw new UserError(
      `${repo}: there is no folder of this name, revision ${shown(revision)} is not in the cache ${cacheDir}, and no request may be made`,
      { hint },
    );
  const missing = await missingFiles(cache, commit, part, false);
  if (missing.length === 0) return snapshotPath(cache, commit);
  throw new UserError(
    `${repo}: the cache ${cacheDir} has not got ${shownList(missing)} of revision ${shown(revision)}, and no request may be made`,
    { hint },
  );
}

function shownList(names: readonly string[]): string {
  return names.length > 3 ? `${names.slice(0, 3).join(", ")} and ${names.length - 3} more files` : names.join(", ");
}

async function download(wanted: Wanted, settings: HubSettings, options: HubOptions): Promise<string> {
  const { repo, revision, part, cache } = wanted;
  const hub: Hub = { endpoint: settings.endpoint, token: settings.token, repo, revision, signal: options.signal };
  const commit = isCommit(revision) ? revision : await commitOf(hub);
  // All else is asked of the commit: a branch may move meanwhile.
  const pinned: Hub = { ...hub, revision: commit };
  if (!(await isWhole(wanted, commit))) {
    const listing = await list(pinned);
    const files = await chooseFiles(listing, part, repo, async (index) => {
      await fetchFiles(pinned, cache, [index]);
      return [...new Set(readShardIndex(join(snapshotPath(cache, commit), index.name)).values())];
    });
    await fetchFiles(pinned, cache, files, options.onDownload);
    for (const name of optional(part)) if (!listing.has(name)) await markAbsent(cache, commit, name);
  }
  // Last, so that a branch in the cache never points to half a model.
  if (!isCommit(revision)) await writeRef(cache, revision, commit);
  return snapshotPath(cache, commit);
}

/** The commit that a branch or tag points to. */
async function commitOf(hub: Hub): Promise<string> {
  const { modelInfo } = await import("@huggingface/hub");
  const { sha } = await asked(hub, (fetch) =>
    modelInfo({ name: hub.repo, revision: hub.revision, hubUrl: hub.endpoint, additionalFields: ["sha"], fetch }),
  );
  if (typeof sha !== "string" || !isCommit(sha))
    throw new UserError(`${hub.repo}: the hub gives ${shown(sha)} as the commit of ${shown(hub.revision)}`);
  return sha;
}

/** The files of the repository's top folder, where those of a model are. */
async function list(hub: Hub): Promise<ReadonlyMap<string, RemoteFile>> {
  const { listFiles } = await import("@huggingface/hub");
  const repo = { type: "model" as const, name: hub.repo };
  return asked(hub, (fetch) => checkListing(listFiles({ repo, revision: hub.revision, hubUrl: hub.endpoint, fetch }), hub.repo));
}

/** A call of the hub's client, which is given no token: `send` alone decides where that goes. The client trusts the form of what it is sent. */
function asked<T>(hub: Hub, call: (fetch: typeof globalThis.fetch) => Promise<T>): Promise<T> {
  return retrying(hub, async () => {
    try {
      return await call((input) => send(hub, input instanceof Request ? input.url : String(input)));
    } catch (cause) {
      if (!(cause instanceof SyntaxError) && !(cause instanceof TypeError && cause.cause === undefined)) throw cause;
      throw new UserError(`${hub.repo}: ${hub.endpoint} answers with something other than a hub's JSON`, {
        cause,
        hint: "check HF_ENDPOINT, and whether a network's log-in page is in between",
      });
    }
  });
}

/** Puts files into the snapshot of the commit, those that are in the cache already without a request. */
async function fetchFiles(
  hub: Hub,
  cache: RepositoryCache,
  files: readonly RemoteFile[],
  onDownload?: (progress: DownloadProgress) => void,
): Promise<void> {
  const sizes = await Promise.all(files.map((file) => sizeOf(join(snapshotPath(cache, hub.revision), file.name))));
  const unlinked = files.filter((file, i) => sizes[i] !== file.bytes);
  const blobs = await Promise.all(unlinked.map((file) => sizeOf(blobPath(cache, file.etag))));
  const absent = unlinked.filter((file, i) => blobs[i] !== file.bytes);
  await checkSpace(cache, absent);
  const total = absent.reduce((sum, file) => sum + file.bytes, 0);
  let before = 0;
  for (const file of unlinked) {
    const blob = blobPath(cache, file.etag);
    if (absent.includes(file)) {
      const arrived = (fileBytes: number): void =>
        onDownload?.({ file: file.name, fileBytes, fileTotal: file.bytes, bytes: before + fileBytes, total });
      await withLock(cache, file.etag, hub.signal, async () => {
        // Whoever held the lock may have brought it.
        if ((await sizeOf(blob)) === file.bytes) arrived(file.bytes);
        else await downloadBlob(hub, file, blob, arrived);
      });
      before += file.bytes;
    }
    await linkBlob(cache, hub.revision, file.name, file.etag);
  }
}

/** Refuses before the first byte what the disk has no room for. */
async function checkSpace(cache: RepositoryCache, files: readonly RemoteFile[]): Promise<void> {
  if (files.length === 0) return;
  const partial = await Promise.all(files.map((file) => sizeOf(`${blobPath(cache, file.etag)}.incomplete`)));
  const needed = files.reduce((sum, file, i) => sum + Math.max(0, file.bytes - (partial[i] ?? 0)), 0);
  await mkdir(cache.folder, { recursive: true });
  const { bavail, bsize, blocks } = await statfs(cache.folder);
  // Some file systems do not say.
  if (blocks > 0 && bavail * bsize < needed)
    throw new UserError(`${cache.folder}: the disk has ${bavail * bsize} bytes left, and ${needed} are needed`, { hint: fullDiskHint });
}

const fullDiskHint = "make room, or give another folder as cacheDir (--cache-dir) or HF_HUB_CACHE";

/** An error with what the user needs to know beside it. Whatever is no mistake of the network, disk or hub is a bug of ours and stays as it is. */
async function explained(error: unknown, wanted: Wanted, { cacheDir }: HubSettings): Promise<unknown> {
  const { revision, part, cache } = wanted;
  if (error instanceof HubUnavailable) {
    const commit = isCommit(revision) ? revision : await readRef(cache, revision);
    const cached = commit !== null && (await missingFiles(cache, commit, part, false)).length === 0;
    return cached
      ? new UserError(`${error.message}; the cache has revision ${shown(revision)} as of the last time`, {
          cause: error,
          hint: "set HF_HUB_OFFLINE=1, or give localFilesOnly (--offline), to start from the cache",
        })
      : new UserError(`${error.message}; there is no folder of this name, and the cache has not got revision ${shown(revision)} whole`, {
          cause: error,
          hint: "check the network and HF_ENDPOINT; what has arrived is kept, and the next try goes on from there",
        });
  }
  const code = codeOf(error);
  if (["ENOSPC", "EDQUOT"].includes(code)) return new UserError(`${cacheDir}: the disk is full`, { cause: error, hint: fullDiskHint });
  if (code !== "" && error instanceof Error && "syscall" in error)
    return new UserError(`${cacheDir}: the cache cannot be written (${error.message})`, {
      cause: error,
      hint: "give a folder that can be written as cacheDir (--cache-dir) or HF_HUB_CACHE",
    });
  return error;
}

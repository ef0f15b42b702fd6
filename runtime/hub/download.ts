import { createHash } from "node:crypto";
import { constants } from "node:fs";
import { mkdir, open, rename, rm } from "node:fs/promises";
import type { FileHandle } from "node:fs/promises";
import { dirname } from "node:path";
import { UserError } from "../errors.ts";
import { sizeOf } from "./cache.ts";
import { retrying, send, TransientError } from "./request.ts";
import type { Hub } from "./request.ts";

/** A file as the hub lists it. */
export interface RemoteFile {
  readonly name: string;
  readonly bytes: number;
  /** The hash of its content, lower-case hexadecimal, which is its name in the cache too. */
  readonly etag: string;
  /** What the hash is of: the content itself (SHA-256, large files), or git's blob of it. */
  readonly hash: "sha256" | "git";
}

/** Progress enough to believe that the next try is worth it. */
const worthwhile = 1 << 20;

/**
 * Downloads one file to `blob`, going on where an earlier download stopped. The file appears under its name only when its size and hash are
 * right.
 *
 * What has arrived lies in `<blob>.incomplete`. Whoever writes there starts at or before its end, goes on without gaps and puts each byte at
 * its own place, so all of it has arrived, however many write at once and whenever they stop.
 * @param onBytes called with the bytes of this file that have arrived
 * @throws UserError for a wrong size or hash, and as `retrying` and `send`; errors of the file system as they are
 */
export async function downloadBlob(hub: Hub, file: RemoteFile, blob: string, onBytes: (bytes: number) => void): Promise<void> {
  const partial = `${blob}.incomplete`;
  await mkdir(dirname(blob), { recursive: true });
  const handle = await open(partial, constants.O_RDWR | constants.O_CREAT);
  try {
    let position = (await handle.stat()).size;
    if (position > file.bytes) {
      await handle.truncate(0);
      position = 0;
    }
    let before = position;
    const arrived = (bytes: number): void => onBytes((position = bytes));
    arrived(position);
    await retrying(
      hub,
      () => receive(hub, file, handle, position, arrived),
      () => {
        const progressed = position - before >= worthwhile;
        before = position;
        return progressed;
      },
    );
    await checkHash(hub, file, handle);
    await handle.datasync();
    // Windows renames no file that is open.
    await handle.close();
    // Another process may have finished first; its file is the same.
    await rename(partial, blob).catch(async (error: unknown) => {
      if ((await sizeOf(blob)) !== file.bytes) throw error;
    });
  } catch (error) {
    if (error instanceof Mismatch) await rm(partial, { force: true });
    throw error;
  } finally {
    await handle.close();
  }
}

/** The server's file is not the one that it lists: what has arrived is worth nothing. */
class Mismatch extends UserError {
  constructor(hub: Hub, file: RemoteFile, what: string) {
    super(`${hub.repo}: ${file.name}: ${what}`, {
      hint: "nothing of it was kept; load again to download it anew, and check HF_ENDPOINT and proxies if this happens again",
    });
  }
}

/** Receives from `position` to the end; returns at once when all is there. */
async function receive(hub: Hub, file: RemoteFile, handle: FileHandle, position: number, arrived: (bytes: number) => void): Promise<void> {
  if (position === file.bytes) return;
  const path = file.name.split("/").map(encodeURIComponent).join("/");
  const url = `${hub.endpoint}/${hub.repo}/resolve/${encodeURIComponent(hub.revision)}/${path}`;
  const response = await send(hub, url, position === 0 ? {} : { range: `bytes=${position}-` });
  let at = 0;
  try {
    at = checkedStart(hub, file, response, position);
    for await (const chunk of (response.body ?? []) as AsyncIterable<Uint8Array>) {
      if (at + chunk.length > file.bytes) throw new Mismatch(hub, file, `the server sends more than the ${file.bytes} bytes that it lists`);
      await writeAt(handle, chunk, at);
      at += chunk.length;
      arrived(Math.max(at, position));
    }
  } finally {
    await response.body?.cancel().catch(() => undefined);
  }
  // Without a length in its head, an answer that was cut off can look like a whole one.
  if (at < file.bytes) throw new TransientError(`the answer of ${hub.endpoint} ends at byte ${at} of ${file.bytes} of ${file.name}`);
}

/** The place in the file that an answer begins at. @throws Mismatch before a byte is written when the sizes do not agree */
function checkedStart(hub: Hub, file: RemoteFile, { status, headers }: Response, position: number): number {
  const wrongSize = (got: string): Mismatch => new Mismatch(hub, file, `the hub lists ${file.bytes} bytes, but the server has ${got}`);
  if (status === 206) {
    const range = headers.get("content-range") ?? "";
    const [, start, total] = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(range) ?? [];
    if (Number(start) !== position || position === 0)
      throw new Mismatch(hub, file, `bytes from ${position} on were asked for, and the server sends "${range.slice(0, 60)}"`);
    if (total !== "*" && Number(total) !== file.bytes) throw wrongSize(total!);
    return position;
  }
  // A server that knows no ranges sends everything again.
  const length = headers.get("content-length");
  if (length !== null && headers.get("content-encoding") === null && Number(length) !== file.bytes) throw wrongSize(length.slice(0, 20));
  return 0;
}

async function writeAt(handle: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    const { bytesWritten } = await handle.write(bytes, done, bytes.length - done, position + done);
    done += bytesWritten;
  }
}

/** Reads back what is on disk: a part of it may be of an earlier run. */
async function checkHash(hub: Hub, file: RemoteFile, handle: FileHandle): Promise<void> {
  const hash = createHash(file.hash === "git" && file.etag.length === 40 ? "sha1" : "sha256");
  if (file.hash === "git") hash.update(`blob ${file.bytes}\0`);
  const block = new Uint8Array(Math.min(1 << 22, Math.max(1, file.bytes)));
  for (let at = 0; ;) {
    hub.signal?.throwIfAborted();
    const { bytesRead } = await handle.read(block, 0, block.length, at);
    if (bytesRead === 0) break;
    hash.update(block.subarray(0, bytesRead));
    at += bytesRead;
  }
  const digest = hash.digest("hex");
  if (digest !== file.etag)
    throw new Mismatch(
      hub,
      file,
      `the content is damaged: its hash is ${digest.slice(0, 12)}..., the hub lists ${file.etag.slice(0, 12)}...`,
    );
}

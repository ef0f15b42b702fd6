import { UserError } from "../errors.ts";
import type { BlockCache } from "./block-cache.ts";
import type { BundleFile, WebBundle } from "./bundle.ts";
import type { Platform } from "./platform.ts";
import { patience, readWhole, requestRange } from "./request.ts";
import type { Patience, RequestOptions } from "./request.ts";

/** The files of a model, block by block: from the cache, or from the server, checked and kept. */
export interface BundleFiles {
  /** The folder's address, for messages. */
  readonly base: string;
  readonly blockBytes: number;
  urlOf(file: BundleFile): string;
  /** @throws UserError when it cannot be had, or is not what model.json says. */
  block(file: BundleFile, index: number): Promise<Uint8Array<ArrayBuffer>>;
  /** All of a small file. @throws UserError as `block`. */
  read(file: BundleFile): Promise<Uint8Array<ArrayBuffer>>;
}

export interface FilesOptions {
  readonly signal: AbortSignal;
  /** Bytes that have arrived since the last call, and whether the cache had them; below zero when they turned out not to count. */
  readonly onBytes?: (bytes: number, cached: boolean) => void;
  readonly onNote?: (message: string) => void;
  readonly patience?: Patience;
}

/** A server without ranges sends whole files. One up to this size is taken so, and held until its blocks have been used. */
const wholeBytes = 64 << 20;

/** @param base address of the folder, with a slash at its end */
export function openFiles(
  platform: Platform,
  base: string,
  { blockBytes }: Pick<WebBundle, "blockBytes">,
  cache: BlockCache,
  { signal, onBytes, onNote, patience: patient = patience }: FilesOptions,
): BundleFiles {
  /** Files of a server without ranges. */
  const wholes = new Map<string, Promise<Uint8Array<ArrayBuffer>>>();
  const request: RequestOptions = { signal, onBytes: (bytes) => onBytes?.(bytes, false) };
  const urlOf = ({ path }: BundleFile): string => new URL(path, base).href;

  async function fetched(file: BundleFile, index: number, fresh: boolean): Promise<Uint8Array<ArrayBuffer>> {
    const url = urlOf(file);
    const range = { start: index * blockBytes, end: Math.min(file.bytes, (index + 1) * blockBytes), total: file.bytes };
    const whole = fresh ? undefined : wholes.get(file.path);
    if (whole !== undefined) return (await whole).subarray(range.start, range.end);
    const answer = await requestRange(platform, url, range, { ...request, fresh }, patient);
    if (answer instanceof Uint8Array) return answer;
    if (file.bytes > wholeBytes) {
      void answer.whole.body?.cancel();
      throw new UserError(
        `${url}: the server does not answer requests for parts of a file (Range), and this one, of ${megabytes(file.bytes)}, is too large to be loaded at once`,
        { hint: "serve the folder with a server that has byte ranges: nginx, Caddy, Apache, any object storage, `npx vite preview`" },
      );
    }
    const body = readWhole(url, answer.whole, file.bytes, request, patient);
    wholes.set(file.path, body);
    onNote?.(`the server has no byte ranges: ${file.path} (${megabytes(file.bytes)}) is loaded in one piece`);
    try {
      return (await body).subarray(range.start, range.end);
    } catch (error) {
      wholes.delete(file.path);
      throw error;
    }
  }

  async function block(file: BundleFile, index: number): Promise<Uint8Array<ArrayBuffer>> {
    signal.throwIfAborted();
    const url = urlOf(file);
    const hash = file.blocks[index]!;
    const start = index * blockBytes;
    const kept = await cache.get(url, hash, Math.min(file.bytes - start, blockBytes));
    if (kept !== undefined) {
      onBytes?.(kept.length, true);
      return kept;
    }
    let bytes = await fetched(file, index, false);
    if ((await sha256(bytes)) !== hash) {
      // The browser's own HTTP cache may have an older file; a second answer comes from the server.
      onBytes?.(-bytes.length, false);
      bytes = await fetched(file, index, true);
      if ((await sha256(bytes)) !== hash)
        throw new UserError(`${url}: bytes ${start} to ${start + bytes.length - 1} are not those that model.json describes`, {
          hint: "the file was changed or damaged: load the page again, and if that does not help, copy the model's folder to the server again",
        });
    }
    await cache.put(url, hash, bytes);
    return bytes;
  }

  return {
    base,
    blockBytes,
    urlOf,
    block,
    async read(file) {
      if (file.blocks.length === 1) return block(file, 0);
      const whole = new Uint8Array(file.bytes);
      for (let i = 0; i < file.blocks.length; i += 1) whole.set(await block(file, i), i * blockBytes);
      return whole;
    },
  };
}

/** Of bytes, in hexadecimal. */
async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  const digest = new Uint8Array(await globalThis.crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;

import type { CacheLike, Platform } from "./platform.ts";

/**
 * Blocks of models that this browser has loaded before, by address and hash, in the browser's Cache API. What it does not take costs a download the next
 * time and nothing else: the first refusal is told once.
 */
export interface BlockCache {
  /** A block, or undefined when it is not there or is not whole. */
  get(url: string, hash: string, bytes: number): Promise<Uint8Array<ArrayBuffer> | undefined>;
  put(url: string, hash: string, block: Uint8Array<ArrayBuffer>): Promise<void>;
  /** Removes what lies below `base` and is none of these: blocks of an older version of the model. */
  keepOnly(base: string, blocks: Iterable<{ readonly url: string; readonly hash: string }>): Promise<void>;
}

const cacheName = "culm-models";

/** The hash is part of the name, so a changed file never finds the blocks of an older one. */
const keyOf = (url: string, hash: string): string => `${url}?sha256=${hash}`;

/** @param onNote told when blocks cannot be kept */
export async function openBlockCache({ caches }: Platform, onNote: (message: string) => void): Promise<BlockCache> {
  let cache: CacheLike | undefined;
  const giveUp = (why: string): void => {
    if (cache === undefined) return;
    cache = undefined;
    onNote(`the model is not kept for the next visit: ${why}`);
  };
  try {
    cache = await caches?.open(cacheName);
  } catch (error) {
    onNote(`the model is not kept for the next visit: ${reason(error)}`);
  }
  return {
    async get(url, hash, bytes) {
      try {
        const found = await cache?.match(keyOf(url, hash));
        if (found === undefined) return undefined;
        const block = new Uint8Array(await found.arrayBuffer());
        return block.length === bytes ? block : undefined;
      } catch {
        // A cache that cannot be read is an empty one.
        return undefined;
      }
    },
    async put(url, hash, block) {
      try {
        await cache?.put(keyOf(url, hash), new Response(block, { headers: { "content-type": "application/octet-stream" } }));
      } catch (error) {
        giveUp(reason(error));
      }
    },
    async keepOnly(base, blocks) {
      try {
        if (cache === undefined) return;
        const kept = new Set<string>();
        for (const { url, hash } of blocks) kept.add(keyOf(url, hash));
        for (const { url } of await cache.keys()) if (url.startsWith(base) && !kept.has(url)) await cache.delete(url);
      } catch {
        // What stays takes room and does no harm.
      }
    },
  };
}

function reason(error: unknown): string {
  if (error instanceof Error && error.name === "QuotaExceededError") return "the browser's storage for this page is full";
  return error instanceof Error ? error.message : String(error);
}

import type { CacheLike, Platform } from "../../runtime/web/platform.ts";
import type { Port } from "../../runtime/web/serve.ts";
import type { WorkerLike } from "../../runtime/web/client.ts";

/** A browser's cache in memory. `put` may be spoilt. */
export interface MemoryCache extends CacheLike {
  readonly entries: Map<string, Uint8Array<ArrayBuffer>>;
  refuse: Error | null;
}

export function memoryCache(): MemoryCache {
  const entries = new Map<string, Uint8Array<ArrayBuffer>>();
  const cache: MemoryCache = {
    entries,
    refuse: null,
    match: (url) => Promise.resolve(entries.has(url) ? new Response(entries.get(url)) : undefined),
    async put(url, response) {
      if (cache.refuse !== null) throw cache.refuse;
      entries.set(url, new Uint8Array(await response.arrayBuffer()));
    },
    keys: () => Promise.resolve([...entries.keys()].map((url) => ({ url }))),
    delete: (url) => Promise.resolve(entries.delete(url)),
  };
  return cache;
}

/** Node's own fetch, and a cache. */
export function testPlatform(cache: CacheLike = memoryCache()): Platform {
  return { fetch: (url, init) => fetch(url, init), caches: { open: () => Promise.resolve(cache) } };
}

/** The two ends of a worker's port, in one thread; what is said is cloned, as on the way to a real one. */
export function workerPair(): { readonly worker: WorkerLike; readonly scope: Port } {
  const ends = [new EventTarget(), new EventTarget()] as const;
  const send = (to: EventTarget, data: unknown): void => {
    const copy: unknown = structuredClone(data);
    queueMicrotask(() => to.dispatchEvent(new MessageEvent("message", { data: copy })));
  };
  const end = (own: EventTarget, other: EventTarget): unknown => ({
    postMessage: (data: unknown) => send(other, data),
    addEventListener: own.addEventListener.bind(own),
  });
  return { worker: end(ends[0], ends[1]) as WorkerLike, scope: end(ends[1], ends[0]) as Port };
}

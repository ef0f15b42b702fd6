/**
 * What the loader needs of a browser, or of whoever stands in for one in a test. Everything that follows from an address goes through here, so that the
 * rest is the same anywhere.
 */
export interface Platform {
  readonly fetch: (
    url: string,
    init: { readonly headers: Record<string, string>; readonly cache?: "default" | "no-cache" | "reload"; readonly signal: AbortSignal },
  ) => Promise<Response>;
  /** Absent where the browser has none, as in some private windows. */
  readonly caches?: CacheStorageLike | undefined;
}

/** The part of the browsers' CacheStorage that is used. */
export interface CacheStorageLike {
  open(name: string): Promise<CacheLike>;
}

export interface CacheLike {
  match(url: string): Promise<Response | undefined>;
  put(url: string, response: Response): Promise<void>;
  keys(): Promise<readonly { readonly url: string }[]>;
  delete(url: string): Promise<boolean>;
}

/** This page's own. */
export function browserPlatform(): Platform {
  const { caches } = globalThis as { readonly caches?: CacheStorageLike };
  return { fetch: (url, init) => globalThis.fetch(url, init), ...(caches === undefined ? {} : { caches }) };
}

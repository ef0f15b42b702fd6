import { createHash } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeEach, expect, test } from "vitest";
import { openBlockCache } from "../../../runtime/web/block-cache.ts";
import type { BundleFile } from "../../../runtime/web/bundle.ts";
import { openFiles } from "../../../runtime/web/files.ts";
import type { BundleFiles, FilesOptions } from "../../../runtime/web/files.ts";
import type { CacheLike } from "../../../runtime/web/platform.ts";
import { scratchFolder } from "../../support/model-folder.ts";
import { serveFolders } from "../../support/static-server.ts";
import type { Fault } from "../../support/static-server.ts";
import { memoryCache, testPlatform } from "../../support/web.ts";

const scratch = scratchFolder("web-files");
const blockBytes = 1024;
const content = Buffer.from(Uint8Array.from({ length: 5000 }, (_, i) => (i * 31 + (i >> 8)) % 251));

const listed = (path: string, bytes: Buffer): BundleFile => ({
  path,
  bytes: bytes.length,
  blocks: Array.from({ length: Math.ceil(bytes.length / blockBytes) }, (_, i) =>
    createHash("sha256")
      .update(bytes.subarray(i * blockBytes, (i + 1) * blockBytes))
      .digest("hex"),
  ),
});
const file = listed("weights.bin", content);
const small = listed("small.bin", content.subarray(0, 700));

const never: Fault = () => false;
const server = await serveFolders({ "/model/": scratch.path });
mkdirSync(scratch.path, { recursive: true });
let notes: string[] = [];
let counted = { network: 0, cache: 0 };

beforeEach(() => {
  writeFileSync(join(scratch.path, "weights.bin"), content);
  writeFileSync(join(scratch.path, "small.bin"), content.subarray(0, 700));
  server.fault = never;
  server.log.splice(0);
  notes = [];
  counted = { network: 0, cache: 0 };
});

afterAll(async () => {
  await server.close();
  scratch.remove();
});

async function opened(cache: CacheLike | null = null, options: Partial<FilesOptions> = {}): Promise<BundleFiles> {
  const platform = cache === null ? { fetch: testPlatform().fetch } : testPlatform(cache);
  const onNote = (message: string): void => void notes.push(message);
  return openFiles(platform, `${server.origin}/model/`, { blockBytes }, await openBlockCache(platform, onNote), {
    signal: new AbortController().signal,
    onBytes: (bytes, cached) => (counted[cached ? "cache" : "network"] += bytes),
    onNote,
    patience: { tries: 3, wait: 1, stall: 200 },
    ...options,
  });
}

/** A fault of the first `times` requests for weights.bin. */
function faulty(times: number, fault: Fault): { readonly seen: () => number } {
  let seen = 0;
  server.fault = (path, request, response) => path.endsWith("weights.bin") && (seen += 1) <= times && fault(path, request, response);
  return { seen: () => seen };
}

test("a file is read in ranges, and a small one whole without any", async () => {
  const files = await opened();
  expect(Buffer.from(await files.read(file))).toEqual(content);
  expect(Buffer.from(await files.read(small))).toEqual(content.subarray(0, 700));
  expect(server.log.map(({ range }) => range)).toEqual([
    "bytes=0-1023",
    "bytes=1024-2047",
    "bytes=2048-3071",
    "bytes=3072-4095",
    "bytes=4096-4999",
    undefined,
  ]);
  expect(counted).toEqual({ network: 5700, cache: 0 });
});

test("a second visit makes no request", async () => {
  const cache = memoryCache();
  await (await opened(cache)).read(file);
  const before = server.log.length;
  expect(Buffer.from(await (await opened(cache)).read(file))).toEqual(content);
  expect(server.log.length).toBe(before);
  expect(counted).toEqual({ network: 5000, cache: 5000 });
});

test("a block that lies in the cache cut short is fetched again", async () => {
  const cache = memoryCache();
  await (await opened(cache)).read(file);
  for (const key of cache.entries.keys()) cache.entries.set(key, new Uint8Array(3));
  expect(Buffer.from(await (await opened(cache)).read(file))).toEqual(content);
});

test("a cache that takes nothing is told of once, and read on past", async () => {
  const cache = memoryCache();
  cache.refuse = new DOMException("no room", "QuotaExceededError");
  expect(Buffer.from(await (await opened(cache)).read(file))).toEqual(content);
  expect(notes).toEqual(["the model is not kept for the next visit: the browser's storage for this page is full"]);
});

test("blocks of an older version of the model leave the cache, those of another model stay", async () => {
  const cache = memoryCache();
  const base = `${server.origin}/model/`;
  cache.entries.set(`${base}weights.bin?sha256=old`, new Uint8Array(1));
  cache.entries.set(`${server.origin}/other/weights.bin?sha256=x`, new Uint8Array(1));
  await (await opened(cache)).read(file);
  const kept = await openBlockCache(testPlatform(cache), () => undefined);
  await kept.keepOnly(
    base,
    file.blocks.map((hash) => ({ url: `${base}weights.bin`, hash })),
  );
  expect(cache.entries.size).toBe(file.blocks.length + 1);
  expect([...cache.entries.keys()].some((key) => key.includes("old"))).toBe(false);
});

test("a server without ranges: a file of moderate size is loaded once, in one piece, with a note", async () => {
  faulty(Infinity, (_, __, response) => {
    response.writeHead(200, { "content-length": content.length }).end(content);
    return true;
  });
  expect(Buffer.from(await (await opened()).read(file))).toEqual(content);
  expect(server.log).toHaveLength(1);
  expect(notes).toEqual(["the server has no byte ranges: weights.bin (0.0 MB) is loaded in one piece"]);
  expect(counted.network).toBe(5000);
});

test("a server without ranges: a large file is refused before it is loaded", async () => {
  faulty(Infinity, (_, __, response) => {
    response.writeHead(200, { "content-length": 1 << 30 });
    response.write(content);
    return true;
  });
  const large = { path: "weights.bin", bytes: 1 << 30, blocks: Array.from({ length: (1 << 30) / blockBytes }, () => "0".repeat(64)) };
  await expect((await opened()).block(large, 3)).rejects.toMatchObject({
    name: "UserError",
    message: /does not answer requests for parts of a file \(Range\), and this one, of 1073\.7 MB, is too large/,
    hint: /byte ranges: nginx/,
  });
  expect(counted.network).toBe(0);
});

test("a file that is not there", async () => {
  const { seen } = faulty(Infinity, (_, __, response) => {
    response.writeHead(404).end();
    return true;
  });
  await expect((await opened()).read(file)).rejects.toMatchObject({
    message: /weights\.bin: the server answers 404/,
    hint: /serve all of the folder/,
  });
  expect(seen()).toBe(1);
});

test.each([
  ["a busy server", (_, __, response) => (response.writeHead(503).end(), true)],
  [
    "a connection that breaks off",
    (_, __, response) => {
      response.writeHead(206, { "content-range": "bytes 0-1023/5000", "content-length": 1024 });
      response.write(content.subarray(0, 100), () => response.destroy());
      return true;
    },
  ],
  [
    "a server that falls silent",
    (_, __, response) => {
      response.writeHead(206, { "content-range": "bytes 0-1023/5000", "content-length": 1024 });
      response.write(content.subarray(0, 100));
      return true;
    },
  ],
] satisfies readonly (readonly [string, Fault])[])("%s is asked again, and given up after some tries", async (_, fault) => {
  const { seen } = faulty(2, fault);
  expect(Buffer.from(await (await opened()).read(file))).toEqual(content);
  expect(seen()).toBe(7);
  // What did not count is not counted.
  expect(counted.network).toBe(5000);
  faulty(Infinity, fault);
  await expect((await opened()).read(file)).rejects.toMatchObject({
    message: /weights\.bin: could not be loaded: .* \(3 tries\)/,
    hint: /try again; what has been loaded is kept/,
  });
});

test("a truncated file", async () => {
  writeFileSync(join(scratch.path, "weights.bin"), content.subarray(0, 3000));
  const message = /weights\.bin: the file is not the one that model\.json describes: it has 3000 bytes, expected 5000/;
  await expect((await opened()).read(file)).rejects.toMatchObject({ message, hint: /truncated, or the model was replaced/ });
  // Past its end there is no range to answer with.
  await expect((await opened()).block(file, 4)).rejects.toMatchObject({ message: /it is shorter than model\.json says/ });
  writeFileSync(join(scratch.path, "small.bin"), content.subarray(0, 600));
  await expect((await opened()).read(small)).rejects.toMatchObject({ message: /it has 600 bytes, expected 700/ });
});

test("a file that was changed between two blocks", async () => {
  const files = await opened();
  await files.block(file, 0);
  writeFileSync(join(scratch.path, "weights.bin"), Buffer.from(content).fill(7, 2000));
  await expect(files.block(file, 2)).rejects.toMatchObject({
    message: /weights\.bin: bytes 2048 to 3071 are not those that model\.json describes/,
  });
  expect(counted.network).toBe(2048);
});

test("an older file in the browser's own cache is asked past", async () => {
  // The first answer is what such a cache gives; the second request says that it wants none of it.
  faulty(1, (_, __, response) => {
    response.writeHead(206, { "content-range": "bytes 0-1023/5000", "content-length": 1024 }).end(Buffer.alloc(1024));
    return true;
  });
  expect(Buffer.from(await (await opened()).block(file, 0))).toEqual(content.subarray(0, 1024));
  expect(counted.network).toBe(1024);
});

test("answers of the wrong length, or to another question", async () => {
  faulty(1, (_, __, response) => {
    response.writeHead(206, { "content-range": "bytes 0-1023/5000" }).end(content.subarray(0, 2000));
    return true;
  });
  await expect((await opened()).block(file, 0)).rejects.toMatchObject({ message: /more than the 1024 bytes that were asked for arrived/ });
  faulty(1, (_, __, response) => {
    response.writeHead(206, { "content-range": "bytes 1-1024/5000" }).end(content.subarray(1, 1025));
    return true;
  });
  await expect((await opened()).block(file, 0)).rejects.toMatchObject({ message: /answers bytes 0 to 1023 with "bytes 1-1024\/5000"/ });
});

test("stopping ends a transfer that hangs", async () => {
  const abort = new AbortController();
  faulty(Infinity, (_, __, response) => {
    response.writeHead(206, { "content-range": "bytes 0-1023/5000", "content-length": 1024 });
    response.write(content.subarray(0, 100), () => setTimeout(() => abort.abort(new Error("enough")), 5));
    return true;
  });
  const files = await opened(null, { signal: abort.signal, patience: { tries: 3, wait: 1, stall: 60_000 } });
  await expect(files.block(file, 0)).rejects.toThrow("enough");
  expect(counted.network).toBe(0);
});

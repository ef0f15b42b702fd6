import { createHash } from "node:crypto";
import { open, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { bundleFile } from "../web/bundle.ts";
import type { BundleFile, WebBundle } from "../web/bundle.ts";

/** Bytes of a block: large enough for a request to be cheap, small enough for one that fails to cost little. */
export const webBlockBytes = 8 << 20;

/**
 * Completes a folder that is going to be served: hashes its files, and writes model.json, which names them.
 * @param facts all of model.json that is not about files
 * @returns bytes of all files
 */
export async function finishBundle(folder: string, facts: Omit<WebBundle, "files" | "blockBytes">, signal?: AbortSignal): Promise<number> {
  const files: BundleFile[] = [];
  for (const path of await filesBelow(folder)) files.push(await hashed(folder, path, signal));
  const bundle: WebBundle = { ...facts, blockBytes: webBlockBytes, files };
  const text = `${JSON.stringify(bundle)}\n`;
  await writeFile(join(folder, bundleFile), text);
  return files.reduce((sum, { bytes }) => sum + bytes, Buffer.byteLength(text));
}

/** Paths from the folder, sorted. */
async function filesBelow(folder: string): Promise<readonly string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) =>
      join(entry.parentPath, entry.name)
        .slice(folder.length + 1)
        .replaceAll("\\", "/"),
    )
    .sort();
}

async function hashed(folder: string, path: string, signal: AbortSignal | undefined): Promise<BundleFile> {
  const blocks: string[] = [];
  const block = new Uint8Array(webBlockBytes);
  const handle = await open(join(folder, path));
  try {
    let bytes = 0;
    for (;;) {
      signal?.throwIfAborted();
      const length = await fill(handle, block);
      if (length > 0) blocks.push(createHash("sha256").update(block.subarray(0, length)).digest("hex"));
      bytes += length;
      if (length < block.length) return { path, bytes, blocks };
    }
  } finally {
    await handle.close();
  }
}

/** Reads on until the block is full or the file ends. */
async function fill(handle: Awaited<ReturnType<typeof open>>, block: Uint8Array): Promise<number> {
  let done = 0;
  for (;;) {
    const { bytesRead } = await handle.read(block, done, block.length - done);
    done += bytesRead;
    if (bytesRead === 0 || done === block.length) return done;
  }
}

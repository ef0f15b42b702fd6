import { createHash } from "node:crypto";
import { expect, test } from "vitest";
import { encodeHeader } from "../../../runtime/safetensors.ts";
import type { TensorSpec } from "../../../runtime/safetensors.ts";
import type { BundleFile } from "../../../runtime/web/bundle.ts";
import type { BundleFiles } from "../../../runtime/web/files.ts";
import { openWeights } from "../../../runtime/web/weights.ts";

const blockBytes = 256;

/** Files in memory; `asked` has each block that was asked for, in order. */
function filesOf(contents: Readonly<Record<string, Uint8Array<ArrayBuffer>>>): {
  readonly files: BundleFiles;
  readonly listed: readonly BundleFile[];
  readonly asked: string[];
} {
  const asked: string[] = [];
  const listed = Object.entries(contents).map(([path, bytes]) => ({
    path,
    bytes: bytes.length,
    blocks: Array.from({ length: Math.ceil(bytes.length / blockBytes) }, () => ""),
  }));
  const block: BundleFiles["block"] = ({ path }, index) => {
    asked.push(`${path}:${index}`);
    return Promise.resolve(contents[path]!.slice(index * blockBytes, (index + 1) * blockBytes));
  };
  const files: BundleFiles = {
    base: "http://x/",
    blockBytes,
    urlOf: ({ path }) => `http://x/${path}`,
    block,
    read: ({ path }) => Promise.resolve(contents[path]!),
  };
  return { files, listed, asked };
}

function safetensors(specs: readonly TensorSpec[], seed: number): { readonly bytes: Uint8Array<ArrayBuffer>; readonly data: Uint8Array } {
  const header = encodeHeader(specs, {}, "x");
  const count = specs.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 4), 0);
  const data = Uint8Array.from({ length: count }, (_, i) => (i * seed + (i >> 8)) % 255);
  const bytes = new Uint8Array(header.length + count);
  bytes.set(header);
  bytes.set(data, header.length);
  return { bytes, data };
}

const sha = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
const f32 = (name: string, ...shape: number[]): TensorSpec => ({ name, dtype: "F32", shape });

test("tensors read in the order of the file cost each block once, whatever the pieces", async () => {
  const specs = [f32("a", 100), f32("b", 3), f32("c", 7, 31), f32("d", 1)];
  const { bytes, data } = safetensors(specs, 7);
  const { files, listed, asked } = filesOf({ "m.safetensors": bytes });
  const source = await openWeights(files, listed);
  expect([...source.tensors.keys()]).toEqual(["a", "b", "c", "d"]);
  const read: number[] = [];
  for (const { name, shape } of specs) {
    const all = shape.reduce((x, y) => x * y, 4);
    for (let offset = 0; offset < all; offset += 60) {
      const target = new Uint8Array(Math.min(60, all - offset));
      await source.readInto(name, target, offset);
      read.push(...target);
    }
  }
  expect(sha(Uint8Array.from(read))).toBe(sha(data));
  expect(asked).toEqual(listed[0]!.blocks.map((_, i) => `m.safetensors:${i}`));
});

test("several blocks are on their way while one is waited for, and go on into the next file", async () => {
  const first = safetensors([f32("a", 150)], 7);
  const second = safetensors([f32("b", 400)], 11);
  const { files, listed, asked } = filesOf({ "1.safetensors": first.bytes, "2.safetensors": second.bytes });
  const source = await openWeights(files, listed);
  asked.splice(0);
  const target = new Uint8Array(4);
  await source.readInto("a", target, 4 * 149);
  // The first block of the second file is there since its header was read.
  expect(asked).toEqual(["1.safetensors:2", "2.safetensors:1", "2.safetensors:2", "2.safetensors:3"]);
  // Out of order it is slower, and right.
  await source.readInto("b", target, 800);
  expect([...target]).toEqual([...second.data.subarray(800, 804)]);
  await source.readInto("a", target, 0);
  expect([...target]).toEqual([...first.data.subarray(0, 4)]);
});

test("a failure reaches whoever needs the block, and nobody else", async () => {
  const { bytes } = safetensors([f32("a", 1000)], 7);
  const { files, listed } = filesOf({ "m.safetensors": bytes });
  const source = await openWeights(
    { ...files, block: (file, index) => (index === 3 ? Promise.reject(new Error("gone")) : files.block(file, index)) },
    listed,
  );
  await source.readInto("a", new Uint8Array(4), 0);
  await expect(source.readInto("a", new Uint8Array(4), 3 * blockBytes)).rejects.toThrow("gone");
});

test("headers are checked as those of files are", async () => {
  const open = (bytes: Uint8Array<ArrayBuffer>): Promise<unknown> => {
    const { files, listed } = filesOf({ "m.safetensors": bytes });
    return openWeights(files, listed);
  };
  const { bytes } = safetensors([f32("a", 10)], 7);
  await expect(open(bytes.slice(0, 5))).rejects.toThrow("http://x/m.safetensors: the file has 5 bytes, too short");
  await expect(open(bytes.slice(0, -4))).rejects.toThrow(/the file is truncated or the header is wrong/);
  await expect(open(Uint8Array.from(bytes, (byte, i) => (i < 8 ? 255 : byte)))).rejects.toThrow(/this is not a safetensors file/);
  const { files, listed } = filesOf({ "1.safetensors": bytes, "2.safetensors": bytes });
  await expect(openWeights(files, listed)).rejects.toThrow('http://x/2.safetensors: tensor "a" is in http://x/1.safetensors too');
  const source = await openWeights(files, listed.slice(0, 1));
  await expect(source.readInto("b", new Uint8Array(1), 0)).rejects.toThrow('there is no tensor "b"');
  await expect(source.readInto("a", new Uint8Array(8), 36)).rejects.toThrow('tensor "a" has 40 bytes; bytes 36 to 44 were asked for');
});

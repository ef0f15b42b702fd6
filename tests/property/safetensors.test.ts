import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, expect, test } from "vitest";
import { openCheckpoint } from "../../runtime/node/checkpoint.ts";
import { CheckpointError, encodeHeader, storageBytes } from "../../runtime/safetensors.ts";
import type { StorageDType } from "../../runtime/safetensors.ts";

const folder = mkdtempSync(join(tmpdir(), "culm-fuzz-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const file = join(folder, "x.safetensors");

const tensors = fc
  .uniqueArray(
    fc.record({
      name: fc.oneof(fc.constantFrom("w", "__proto__", "model.layers.0.mamba.A_log"), fc.string({ maxLength: 8, unit: "grapheme" })),
      dtype: fc.constantFrom(...(Object.keys(storageBytes) as StorageDType[])),
      shape: fc.array(fc.nat(4), { maxLength: 3 }),
    }),
    { selector: ({ name }) => name, maxLength: 4 },
  )
  .map((list) =>
    list
      .filter(({ name }) => name !== "__metadata__")
      .map((spec, i) => {
        const bytes = spec.shape.reduce<number>((product, size) => product * size, storageBytes[spec.dtype]);
        return { ...spec, data: Uint8Array.from({ length: bytes }, (_, k) => (k * 7 + i) & 255) };
      }),
  );

/** One change of a file: bytes anywhere, its length, or a piece of its header's text by something that a header could mean. */
const mutation = fc.oneof(
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("byte" as const), at: fc.nat(1 << 16), value: fc.nat(255) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("header-byte" as const), at: fc.nat(1 << 16), value: fc.nat(255) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("truncate" as const), at: fc.nat(1 << 16) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("extend" as const), by: fc.uint8Array({ maxLength: 20 }) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("length" as const), value: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("length" as const), value: fc.bigInt({ min: 0n, max: 400n }) }) },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant("number" as const),
      which: fc.nat(20),
      text: fc.oneof(
        fc.constantFrom(
          "-1",
          "0",
          "1",
          "1e400",
          "9007199254740992",
          "18446744073709551616",
          "0.5",
          "null",
          "[]",
          '"4"',
          "-0",
          "4294967296",
        ),
        fc.nat(64).map(String),
      ),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("word" as const),
      which: fc.nat(20),
      text: fc.constantFrom('"F32"', '"X"', '"shape"', '"w"', "{}"),
    }),
  },
);

type Mutation = typeof mutation extends fc.Arbitrary<infer T> ? T : never;

function mutate(bytes: Uint8Array<ArrayBuffer>, m: Mutation): Uint8Array<ArrayBuffer> {
  const copy = bytes.slice();
  const headerEnd = 8 + (copy.length < 8 ? 0 : Math.min(copy.length - 8, Number(new DataView(copy.buffer).getBigUint64(0, true))));
  switch (m.kind) {
    case "byte":
      if (copy.length > 0) copy[m.at % copy.length] = m.value;
      return copy;
    case "header-byte":
      copy[m.at % Math.min(headerEnd, copy.length || 1)] = m.value;
      return copy;
    case "truncate":
      return copy.slice(0, m.at % (copy.length + 1));
    case "extend":
      return new Uint8Array(Buffer.concat([copy, m.by]));
    case "length":
      if (copy.length >= 8) new DataView(copy.buffer).setBigUint64(0, m.value, true);
      return copy;
    case "number":
    case "word": {
      // Other text in the header, with the length put right, so that the parser is reached and not only the length check.
      const header = Buffer.from(copy.subarray(8, headerEnd)).toString("latin1");
      const places = [...header.matchAll(m.kind === "number" ? /\d+/g : /"[^"]*"/g)];
      const place = places[m.which % Math.max(1, places.length)];
      if (place === undefined) return copy;
      const edited = Buffer.from(header.slice(0, place.index) + m.text + header.slice(place.index + place[0].length), "latin1");
      const prefix = Buffer.alloc(8);
      prefix.writeBigUInt64LE(BigInt(edited.length));
      return new Uint8Array(Buffer.concat([prefix, edited, copy.subarray(headerEnd)]));
    }
  }
}

test("10 000 mutated files: the reader refuses with its own error or reads what the file holds, never beyond its end", () => {
  let accepted = 0;
  let refused = 0;
  fc.assert(
    fc.property(tensors, fc.array(mutation, { maxLength: 3 }), (list, mutations) => {
      let bytes = new Uint8Array(Buffer.concat([encodeHeader(list, { format: "pt" }, file), ...list.map(({ data }) => data)]));
      for (const m of mutations) bytes = mutate(bytes, m);
      writeFileSync(file, bytes);
      let checkpoint;
      try {
        checkpoint = openCheckpoint(file);
      } catch (error) {
        refused += 1;
        expect(error).toBeInstanceOf(CheckpointError);
        expect((error as Error).message).toContain(file);
        expect(mutations).not.toHaveLength(0);
        return;
      }
      accepted += 1;
      let total = 0;
      for (const [name, { offset, bytes: size, shape, dtype }] of checkpoint.tensors) {
        expect(offset + size).toBeLessThanOrEqual(bytes.length);
        expect(size).toBe(shape.reduce<number>((product, n) => product * n, storageBytes[dtype]));
        expect(Buffer.compare(checkpoint.read(name), bytes.subarray(offset, offset + size))).toBe(0);
        total += size;
      }
      expect(checkpoint.bytesRead).toBe(total);
      checkpoint.close();
    }),
    { numRuns: 10_000 },
  );
  // Both ways have to be well travelled for the test to say anything.
  expect(Math.min(accepted, refused)).toBeGreaterThan(1000);
}, 300_000);

import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { isUserError } from "../../../runtime/errors.ts";
import { openCheckpoint } from "../../../runtime/node/checkpoint.ts";
import { writeSafetensors } from "../../../runtime/node/write-safetensors.ts";
import type { TensorToWrite } from "../../../runtime/node/write-safetensors.ts";
import { decodeFloats } from "../../../runtime/numeric.ts";
import { CheckpointError } from "../../../runtime/safetensors.ts";

const folder = mkdtempSync(join(tmpdir(), "culm-safetensors-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
let count = 0;
const fresh = (name = "file.safetensors"): string => {
  const inner = join(folder, String((count += 1)));
  mkdirSync(inner);
  return join(inner, name);
};

/** A file from a header given as text, so that it may be as wrong as one likes. */
function handmade(header: string, data: Uint8Array = new Uint8Array(0), length = BigInt(new TextEncoder().encode(header).length)): string {
  const file = fresh();
  const prefix = new Uint8Array(8);
  new DataView(prefix.buffer).setBigUint64(0, length, true);
  writeFileSync(file, Buffer.concat([prefix, new TextEncoder().encode(header), data]));
  return file;
}

const floats = (values: readonly number[]): Uint8Array => new Uint8Array(Float32Array.from(values).buffer);
const two: readonly TensorToWrite[] = [
  { name: "b", dtype: "U8", shape: [3], data: Uint8Array.of(7, 8, 9) },
  { name: "a", dtype: "F32", shape: [2, 1], data: floats([1.5, -2]) },
  { name: "empty", dtype: "BF16", shape: [0, 5], data: new Uint8Array(0) },
  { name: "scalar", dtype: "I64", shape: [], data: new Uint8Array(BigInt64Array.of(-5n).buffer) },
];

describe("what is written can be read", () => {
  test("tensors, metadata, order by element size, data on multiples of 8", () => {
    const file = fresh();
    writeSafetensors(file, two, { format: "pt" });
    const checkpoint = openCheckpoint(file);
    expect([...checkpoint.tensors.keys()]).toEqual(["scalar", "a", "empty", "b"]);
    expect([...checkpoint.metadata]).toEqual([["format", "pt"]]);
    expect(decodeFloats("F32", checkpoint.read("a"))).toEqual(Float32Array.of(1.5, -2));
    expect(checkpoint.read("b")).toEqual(Uint8Array.of(7, 8, 9));
    expect(checkpoint.read("empty")).toHaveLength(0);
    expect(checkpoint.tensors.get("scalar")?.offset).toSatisfy((at: number) => at % 8 === 0);
    expect(checkpoint.bytesRead).toBe(11);
    checkpoint.close();
    checkpoint.close();
    expect(() => checkpoint.read("a")).toThrow("closed");
  });

  test("a range goes straight into its place and leaves the rest alone", () => {
    const file = fresh();
    writeSafetensors(file, [{ name: "w", dtype: "U8", shape: [10], data: Uint8Array.from({ length: 10 }, (_, i) => i) }]);
    const checkpoint = openCheckpoint(file);
    const target = new Uint8Array(8).fill(255);
    checkpoint.readInto("w", target.subarray(2, 5), 4);
    expect([...target]).toEqual([255, 255, 4, 5, 6, 255, 255, 255]);
    expect(() => checkpoint.readInto("w", target, 3)).toThrow("has 10 bytes; bytes 3 to 11 were asked for");
    expect(() => checkpoint.readInto("w", target.subarray(0, 1), -1)).toThrow(CheckpointError);
    expect(() => checkpoint.readInto("w", target.subarray(0, 1), 0.5)).toThrow(CheckpointError);
    expect(() => checkpoint.read("x")).toThrow('there is no tensor "x"');
    writeFileSync(file, "");
    expect(() => checkpoint.read("w")).toThrow("10 bytes early");
    checkpoint.close();
  });

  test("what is large is read in parts, side by side, and is the same", async () => {
    const file = fresh();
    const data = Uint8Array.from({ length: (5 << 20) + 3 }, (_, i) => Math.imul(i, 0x9e3779b1) >>> 24);
    writeSafetensors(file, [{ name: "w", dtype: "U8", shape: [data.length], data }]);
    const checkpoint = openCheckpoint(file);
    for (const [first, bytes] of [
      [0, data.length],
      [1, (1 << 20) + 1],
      [7, 1 << 20],
      [data.length - 5, 5],
    ] as const) {
      const target = new Uint8Array(bytes + 2).fill(255);
      await checkpoint.load("w", target.subarray(1, 1 + bytes), first);
      expect(Buffer.compare(target.subarray(1, 1 + bytes), data.subarray(first, first + bytes))).toBe(0);
      expect([target[0], target[bytes + 1]]).toEqual([255, 255]);
    }
    expect(checkpoint.bytesRead).toBe(data.length + 2 * (1 << 20) + 1 + 5);
    expect(() => checkpoint.load("w", new Uint8Array(2 << 20), 4 << 20)).toThrow("were asked for");
    writeFileSync(file, new Uint8Array(3 << 20));
    await expect(checkpoint.load("w", new Uint8Array(5 << 20))).rejects.toThrow(/ended at byte \d+, \d+ bytes early; was it changed/);
    checkpoint.close();
  });

  test("what is being read when a checkpoint is closed is read to its end, and nothing after it", async () => {
    const file = fresh();
    const data = new Uint8Array(8 << 20).fill(5);
    writeSafetensors(file, [{ name: "w", dtype: "U8", shape: [data.length], data }]);
    const checkpoint = openCheckpoint(file);
    const targets = [new Uint8Array(data.length), new Uint8Array(2 << 20)];
    const reading = targets.map((target) => checkpoint.load("w", target));
    checkpoint.close();
    // its number would be taken by the next file that is opened
    const other = openCheckpoint(file);
    for (const end of reading) await end;
    for (const target of targets) expect(target.every((byte) => byte === 5)).toBe(true);
    expect(() => checkpoint.load("w", targets[1]!)).toThrow("closed");
    other.close();
  });

  test("data come in pieces, are made once, and a wrong length leaves no file behind", () => {
    const file = fresh();
    let made = 0;
    function* pieces(n: number): Generator<Uint8Array> {
      for (let i = 0; i < n; i += 1) {
        made += 1;
        yield Uint8Array.of(i, i);
      }
    }
    writeSafetensors(file, [{ name: "w", dtype: "U8", shape: [6], data: pieces(3) }]);
    expect(made).toBe(3);
    expect([...openCheckpoint(file).read("w")]).toEqual([0, 0, 1, 1, 2, 2]);

    const other = fresh();
    for (const n of [2, 4, Infinity]) {
      expect(() => writeSafetensors(other, [{ name: "w", dtype: "U8", shape: [6], data: pieces(n) }])).toThrow(
        /tensor w: shape \[6\] of U8 needs 6 bytes, its data have (4|8)/,
      );
    }
    expect(readdirSync(join(other, ".."))).toEqual([]);
    expect(() => writeSafetensors(other, [two[0]!, two[0]!])).toThrow("given twice");
    expect(() => writeSafetensors(other, [{ ...two[0]!, name: "__metadata__" }])).toThrow("reserved");
    expect(() => writeSafetensors(other, [{ ...two[0]!, shape: [2 ** 40, 2 ** 40] }])).toThrow("cannot be written");
    expect(readdirSync(join(other, ".."))).toEqual([]);
  });

  test("names that are properties of every object are names like others", () => {
    const file = fresh();
    const names = ["__proto__", "constructor", "toString", 'quote " and \\', "ünïcödé"];
    writeSafetensors(
      file,
      names.map((name, i) => ({ name, dtype: "U8", shape: [1], data: Uint8Array.of(i) })),
    );
    const checkpoint = openCheckpoint(file);
    expect(names.map((name) => [...checkpoint.read(name)])).toEqual([[0], [1], [2], [3], [4]]);
    checkpoint.close();
  });
});

const one = (entry: string): string => `{"w":${entry}}`;
const entry = (dtype: string, shape: string, offsets: string): string =>
  one(`{"dtype":"${dtype}","shape":${shape},"data_offsets":${offsets}}`);

describe("a wrong header is refused, with file and tensor", () => {
  const four = new Uint8Array(4);
  test.each<[string, string, Uint8Array, RegExp]>([
    ["not JSON", "{", four, /header is not valid JSON/],
    ["not UTF-8 is not JSON either", "\u0000", four, /header is not valid JSON/],
    ["not an object", "[]", four, /must be a JSON object, got \[\]/],
    ["entry not an object", one("3"), four, /tensor "w": expected \{ dtype, shape, data_offsets \}, got 3/],
    ["unknown dtype", entry("F31", "[1]", "[0,4]"), four, /tensor "w": unknown dtype "F31"; known are F64, F32/],
    ["dtype from Object's own names", entry("constructor", "[1]", "[0,4]"), four, /unknown dtype "constructor"/],
    ["negative size", entry("F32", "[-1]", "[0,4]"), four, /tensor "w": shape must be a list of integers .* got \[-1\]/],
    ["fractional size", entry("F32", "[1.5]", "[0,4]"), four, /shape must be/],
    ["unsafe size", entry("F32", "[9007199254740993]", "[0,4]"), four, /shape must be/],
    ["shape no list", entry("F32", "4", "[0,4]"), four, /shape must be/],
    ["sizes whose product overflows", entry("F32", "[4294967296,4294967296]", "[0,4]"), four, /too many elements/],
    ["offsets missing", one('{"dtype":"F32","shape":[1]}'), four, /data_offsets must be two integers/],
    ["three offsets", entry("F32", "[1]", "[0,4,8]"), four, /data_offsets must be two integers/],
    ["offsets reversed", entry("F32", "[1]", "[4,0]"), four, /end before they begin/],
    ["outside the file", entry("F32", "[2]", "[0,8]"), four, /\[0, 8\] lie outside the 4 bytes of data; the file is truncated/],
    ["size and shape differ", entry("F32", "[2]", "[0,4]"), four, /shape \[2\] of F32 needs 8 bytes, but .* hold 4/],
    ["trailing bytes", entry("U8", "[3]", "[0,3]"), four, /the last 1 bytes of the data belong to no tensor/],
    ["a hole", entry("U8", "[3]", "[1,4]"), four, /1 bytes between the start of the data and tensor "w" belong to no tensor/],
    ["metadata not strings", '{"__metadata__":{"a":1}}', new Uint8Array(0), /__metadata__ "a" must be a string/],
    ["metadata not an object", '{"__metadata__":[]}', new Uint8Array(0), /__metadata__ must be an object/],
    [
      "overlap",
      '{"v":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"w":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}',
      four,
      /tensors "v" and "w" overlap at byte 2/,
    ],
    [
      "a tensor twice",
      '{"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"w" :{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}',
      four,
      /"w" stands twice/,
    ],
    ["a field twice", one('{"dtype":"U8","shape":[4],"dtype":"I8","data_offsets":[0,4]}'), four, /"dtype" stands twice/],
  ])("%s", (_, header, data, message) => {
    const file = handmade(header, data);
    const attempt = (): unknown => openCheckpoint(file);
    expect(attempt).toThrow(message);
    expect(attempt).toThrow(CheckpointError);
    expect(attempt).toThrow(file);
  });

  test("header length longer than the file, above the limit, and files shorter than a length", () => {
    expect(() => openCheckpoint(handmade("{}", four, 7n))).toThrow(/the header claims 7 bytes but only 6 follow; the file is truncated/);
    expect(() => openCheckpoint(handmade("{}", four, 2n ** 63n))).toThrow(/claims 9223372036854775808 bytes, above the limit/);
    const short = fresh();
    for (const size of [0, 7]) {
      writeFileSync(short, new Uint8Array(size));
      expect(() => openCheckpoint(short)).toThrow(`the file has ${size} bytes, too short`);
    }
  });

  test("a header of 10 000 nested lists is an error, not a crash", () => {
    expect(() => openCheckpoint(handmade(one("[".repeat(100_000) + "]".repeat(100_000))))).toThrow(CheckpointError);
  });
});

describe("folders and shards", () => {
  function sharded(map: Readonly<Record<string, unknown>>, extra: Readonly<Record<string, unknown>> = {}): string {
    const inner = join(fresh(), "..");
    writeSafetensors(join(inner, "model-1.safetensors"), [two[0]!, two[2]!], { format: "pt" });
    writeSafetensors(join(inner, "model-2.safetensors"), [two[1]!, two[3]!]);
    writeFileSync(join(inner, "model.safetensors.index.json"), JSON.stringify({ metadata: { total_size: 19 }, weight_map: map, ...extra }));
    return inner;
  }
  const map = { a: "model-2.safetensors", b: "model-1.safetensors", empty: "model-1.safetensors", scalar: "model-2.safetensors" };

  test("the tensors of all shards, by folder and by index file", () => {
    const inner = sharded(map);
    for (const path of [inner, join(inner, "model.safetensors.index.json")]) {
      const checkpoint = openCheckpoint(path);
      expect(checkpoint.path).toBe(inner);
      expect([...checkpoint.tensors.keys()].sort()).toEqual(["a", "b", "empty", "scalar"]);
      expect([...checkpoint.read("b")]).toEqual([7, 8, 9]);
      expect(decodeFloats("F32", checkpoint.read("a"))).toEqual(Float32Array.of(1.5, -2));
      expect(checkpoint.tensors.get("a")?.file).toBe(join(inner, "model-2.safetensors"));
      checkpoint.close();
    }
  });

  test("tensors that the index does not mention are seen; the single file goes first", () => {
    const inner = sharded({ a: "model-2.safetensors", b: "model-1.safetensors" });
    expect(openCheckpoint(inner).tensors.size).toBe(4);
    writeSafetensors(join(inner, "model.safetensors"), [two[0]!]);
    expect(openCheckpoint(inner).tensors.size).toBe(1);
  });

  test.each<[string, Readonly<Record<string, unknown>>, RegExp]>([
    [
      "a missing shard",
      { ...map, a: "model-3.safetensors" },
      /index\.json: names the shard "model-3.safetensors", which is not in the folder/,
    ],
    [
      "a tensor in the wrong shard",
      { ...map, a: "model-1.safetensors" },
      /places tensor "a" in "model-1.safetensors", which does not have it/,
    ],
    ["an unknown tensor", { ...map, c: "model-1.safetensors" }, /places tensor "c"/],
    ["a way out of the folder", { ...map, a: "../x/model-1.safetensors" }, /weight_map of "a": expected the name of a \.safetensors file/],
    ["an absolute path", { ...map, a: "/etc/x.safetensors" }, /weight_map of "a"/],
    ["a Windows path", { ...map, a: "..\\x.safetensors" }, /weight_map of "a"/],
    ["another kind of file", { ...map, a: "passwd" }, /weight_map of "a"/],
    ["no name", { ...map, a: 3 }, /weight_map of "a".* got 3/],
    ["nothing", {}, /weight_map is empty/],
  ])("%s", (_, wrong, message) => {
    const inner = sharded(wrong);
    expect(() => openCheckpoint(inner)).toThrow(message);
    expect(() => openCheckpoint(inner)).toThrow(CheckpointError);
  });

  test("no index, no JSON, no map, no folder, no file, no regular file", () => {
    const inner = join(fresh(), "..");
    expect(() => openCheckpoint(inner)).toThrow("neither model.safetensors nor model.safetensors.index.json");
    writeFileSync(join(inner, "pytorch_model.bin"), "");
    expect(() => openCheckpoint(inner)).toThrow(
      expect.objectContaining({ hint: expect.stringContaining("convert it") as string }) as Error,
    );
    const index = join(inner, "model.safetensors.index.json");
    writeFileSync(index, "{");
    expect(() => openCheckpoint(inner)).toThrow(/index\.json: is not valid JSON/);
    writeFileSync(index, "{}");
    expect(() => openCheckpoint(inner)).toThrow(/weight_map: expected an object .* got undefined/);
    for (const path of [join(inner, "nothing"), join(inner, "x.safetensors")]) {
      expect(() => openCheckpoint(path)).toThrow(`${path}: cannot be opened (there is no such file or folder)`);
    }
    mkdirSync(join(inner, "model.safetensors"));
    expect(() => openCheckpoint(inner)).toThrow("not a regular file");
  });

  test("tensors in two shards that the index does not place are refused", () => {
    const inner = sharded({ a: "model-2.safetensors", b: "model-1.safetensors" });
    writeSafetensors(join(inner, "model-2.safetensors"), [two[1]!, two[2]!]);
    expect(() => openCheckpoint(inner)).toThrow(/model-1\.safetensors: tensor "empty" is in model-2\.safetensors too/);
  });
});

test("files that the reference implementation wrote", () => {
  const golden = "tests/reference/golden/bf16";
  const checkpoint = openCheckpoint(golden);
  const size = statSync(join(golden, "model.safetensors")).size;
  const total = [...checkpoint.tensors.values()].reduce((sum, { bytes }) => sum + bytes, 0);
  for (const name of checkpoint.tensors.keys()) checkpoint.read(name);
  expect(checkpoint.bytesRead).toBe(total);
  expect(total).toBeLessThan(size);
  expect(checkpoint.metadata.get("format")).toBe("pt");
  const raw = readFileSync(join(golden, "model.safetensors"));
  const { offset, bytes } = checkpoint.tensors.get("model.final_layernorm.weight")!;
  expect(Buffer.compare(raw.subarray(offset, offset + bytes), checkpoint.read("model.final_layernorm.weight"))).toBe(0);
  checkpoint.close();
});

test("a reader's error is one that the command line prints without a stack", () => {
  try {
    openCheckpoint(join(folder, "none"));
    expect.unreachable();
  } catch (error) {
    expect(isUserError(error)).toBe(true);
  }
});

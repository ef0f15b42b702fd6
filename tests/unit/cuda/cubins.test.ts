import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { complaintOf, reportsOf } from "../../../backends/cuda/report.ts";
import { readArchive, writeArchive } from "../../../ffi/archive.ts";
import { readCubins, writeCubins } from "../../../ffi/cubins.ts";
import type { Cubins } from "../../../ffi/cubins.ts";

const elf = (size: number): Uint8Array => Uint8Array.from({ length: size }, (_, i) => [0x7f, 0x45, 0x4c, 0x46][i] ?? i & 255);
const cubins: Cubins = {
  computeCapability: 90,
  kernels: [
    { entry: "gemm_0123456789ab", threads: 256, symbols: 2, member: "both.cubin" },
    { entry: "rows_0123456789ab", threads: 32, symbols: 0, member: "both.cubin" },
    { entry: "conv_0123456789ab", threads: 128, symbols: 1, member: "a_cubin_with_a_longer_name.cubin" },
  ],
  members: [
    { name: "both.cubin", data: elf(101) },
    { name: "a_cubin_with_a_longer_name.cubin", data: elf(64) },
  ],
};

describe("kernels.bin", () => {
  test("gives back what went in", () => {
    const back = readCubins(writeCubins(cubins));
    expect(back.computeCapability).toBe(90);
    expect(back.kernels).toEqual(cubins.kernels);
    expect(back.members.map(({ name, data }) => [name, [...data]])).toEqual(cubins.members.map(({ name, data }) => [name, [...data]]));
  });

  const index = (change: object): Uint8Array => {
    const [first, ...rest] = readArchive(writeCubins(cubins));
    const value = { ...(JSON.parse(new TextDecoder().decode(first!.data)) as object), ...change };
    return writeArchive([{ name: "index.json", data: new TextEncoder().encode(JSON.stringify(value)) }, ...rest]);
  };
  const kernel = (change: object): Uint8Array => index({ kernels: [{ ...cubins.kernels[0]!, ...change }] });

  test.each<[string, Uint8Array, RegExp]>([
    ["nothing", new Uint8Array(0), /not an archive/],
    ["an archive without an index", writeArchive(cubins.members), /its first member is "both.cubin"; expected "index.json"/],
    ["an empty archive", writeArchive([]), /its first member is missing/],
    ["an index that is no JSON", writeArchive([{ name: "index.json", data: elf(9) }]), /index.json is no JSON/],
    [
      "an index that is a list",
      writeArchive([{ name: "index.json", data: new TextEncoder().encode("[]") }]),
      /index.json is \[\]; expected an object/,
    ],
    ["another version", index({ version: 2 }), /it has version 2; expected version 1: compile the model again/],
    ["no architecture", index({ computeCapability: "90" }), /computeCapability is "90"; expected an integer from 10/],
    ["no list of kernels", index({ kernels: {} }), /kernels is \{\}; expected an array/],
    ["a kernel that is none", index({ kernels: [7] }), /kernels\[0\] is 7; expected an object/],
    ["a name that is no function's", kernel({ entry: "a b" }), /kernels\[0\]\.entry is "a b"/],
    ["a cubin that is not there", kernel({ member: "../x" }), /kernels\[0\]\.member is "..\/x"/],
    ["too many threads", kernel({ threads: 2048 }), /kernels\[0\]\.threads is 2048; expected an integer from 1 to 1024/],
    ["half a symbol", kernel({ symbols: 0.5 }), /kernels\[0\]\.symbols is 0.5/],
    ["two kernels of one name", index({ kernels: [cubins.kernels[0], cubins.kernels[0]] }), /two kernels have one entry/],
    [
      "a cubin that is none",
      writeCubins({ ...cubins, members: [{ name: "both.cubin", data: Uint8Array.of(1, 2) }] }),
      /member "both.cubin" is no ELF file/,
    ],
    [
      "two cubins of one name",
      writeCubins({ ...cubins, members: [cubins.members[0]!, cubins.members[0]!] }),
      /two members are called "both.cubin"/,
    ],
  ])("%s is refused", (_, bytes, message) => {
    expect(() => readCubins(bytes)).toThrow(message);
  });

  test("that is cut short or has other bytes in it is read or refused, and nothing else", () => {
    const whole = writeCubins(cubins);
    fc.assert(
      fc.property(fc.nat(whole.length), fc.array(fc.tuple(fc.nat(whole.length - 1), fc.nat(255)), { maxLength: 4 }), (length, changes) => {
        const bytes = whole.slice();
        for (const [at, byte] of changes) bytes[at] = byte;
        try {
          readCubins(bytes.subarray(0, length));
        } catch (error) {
          expect((error as Error).message).toMatch(/not an archive|damaged or cut short|cannot be read/);
        }
      }),
      { numRuns: 500 },
    );
  });

  test("a member of negative size does not hold up the reader", () => {
    const bytes = writeArchive([{ name: "a", data: new Uint8Array(0) }]);
    bytes.set(new TextEncoder().encode("-60       "), 8 + 48);
    expect(() => readArchive(bytes)).toThrow("damaged or cut short at byte 8");
  });
});

describe("the assembler's report", () => {
  const log = [
    "ptxas info    : 0 bytes gmem",
    "ptxas info    : Compiling entry function 'gemm_1' for 'sm_90'",
    "ptxas info    : Function properties for gemm_1",
    "    16 bytes stack frame, 12 bytes spill stores, 24 bytes spill loads",
    "ptxas info    : Used 255 registers, used 1 barriers, 16 bytes cumulative stack size",
    "ptxas info    : Compiling entry function 'rows_2' for 'sm_90'",
    "ptxas info    : Function properties for rows_2",
    "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads",
    "ptxas info    : Used 18 registers, 400 bytes smem",
  ].join("\n");

  test("is read for each kernel", () => {
    expect([...reportsOf(log)]).toEqual([
      ["gemm_1", { registers: 255, stack: 16, spillStores: 12, spillLoads: 24 }],
      ["rows_2", { registers: 18, stack: 0, spillStores: 0, spillLoads: 0 }],
    ]);
    expect(reportsOf("nothing to say").size).toBe(0);
  });

  test("is complained about where registers are in memory, on the stack too", () => {
    const reports = reportsOf(log);
    expect(complaintOf(reports.get("gemm_1")!)).toBe(
      "it keeps registers in memory: 16 bytes of stack, 12 bytes of spill stores and 24 of spill loads with 255 registers",
    );
    expect(complaintOf(reports.get("rows_2")!)).toBeNull();
    const [first, ...rest] = log.split("\n");
    const warning =
      "ptxas info    : (C7514) Potential Performance Loss: wgmma.mma_async instructions are serialized due to non wgmma instructions reading accumulator registers of  a wgmma between start and end of the pipeline stage in the function 'rows_2'";
    expect(complaintOf(reportsOf([first, warning, ...rest].join("\n")).get("rows_2")!)).toBe(
      "the assembler makes its products wait for each other: wgmma.mma_async instructions are serialized due to non wgmma instructions reading accumulator registers of  a wgmma between start and end of the pipeline stage",
    );
    expect(complaintOf({ registers: 30, stack: 160, spillStores: 0, spillLoads: 0 })).toContain("160 bytes of stack");
  });
});

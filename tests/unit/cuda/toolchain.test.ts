import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { cudaBackend } from "../../../backends/cuda/index.ts";
import { toolchainWith } from "../../../backends/cuda/toolchain.ts";
import type { Source } from "../../../compiler/backend.ts";
import { readCubins } from "../../../ffi/cubins.ts";
import { candidates, loadNvrtc } from "../../../ffi/libnvrtc.ts";
import type { Nvrtc } from "../../../ffi/libnvrtc.ts";

const caps = cudaBackend.caps("sm_90x78");
const source = (entry: string, text = entry): Source => ({
  language: "cuda",
  text,
  entry,
  sharedBytes: 0,
  launch: { threads: 64, symbols: 1 },
  about: 'layers.3.mlp: gemm {"bm":64}',
});
const decode = (bytes: Uint8Array): string => new TextDecoder("latin1").decode(bytes);

describe("NVRTC that is not there", () => {
  test("is missed by all the names that were tried, with what to do", () => {
    vi.stubEnv("CULM_NVRTC", "/nowhere/libnvrtc.so");
    expect(() => cudaBackend.toolchain!.version(caps)).toThrow(
      /^libnvrtc, which compiles kernels for CUDA, was not found; tried \/nowhere\/libnvrtc\.so; it comes with the CUDA toolkit .* set CULM_NVRTC/,
    );
    vi.unstubAllEnvs();
  });

  test("is looked for by name first, then in the toolkit", () => {
    const names = candidates(undefined);
    expect(names.slice(0, 2)).toEqual(["libnvrtc.so.13", "libnvrtc.so.12"]);
    expect(names).toContain("/usr/local/cuda/targets/x86_64-linux/lib/libnvrtc.so.13");
    expect(names).toContain("/usr/local/cuda/lib64/libnvrtc.so.12");
    expect(candidates("/here/libnvrtc.so.12")).toEqual(["/here/libnvrtc.so.12"]);
  });

  test("a library without its functions is none", (context) => {
    if (process.platform !== "linux") return void context.skip("a library of Linux");
    expect(() => loadNvrtc("libc.so.6")).toThrow(/was not found; tried libc\.so\.6/);
  });
});

const compiler = spawnSync("cc", ["--version"]).status === 0;

describe.skipIf(!compiler)(compiler ? "NVRTC" : "NVRTC (skipped: there is no cc to build a stand-in with)", () => {
  const directory = mkdtempSync(join(tmpdir(), "culm-nvrtc-"));
  const library = join(directory, "libnvrtc.so");
  let nvrtc: Nvrtc;
  beforeAll(() => {
    const file = new URL("../../support/fake-nvrtc.c", import.meta.url).pathname;
    const { status, stderr } = spawnSync("cc", ["-shared", "-fPIC", "-O1", "-o", library, file], { encoding: "utf8" });
    expect(status, stderr).toBe(0);
    nvrtc = loadNvrtc(library);
  });
  beforeEach(() => {
    vi.stubEnv("CULM_CACHE", join(directory, "cache"));
  });
  afterEach(() => {
    vi.unstubAllEnvs();
    rmSync(join(directory, "cache"), { recursive: true, force: true });
  });
  afterAll(() => {
    rmSync(directory, { recursive: true });
  });
  const cached = (): string[] => readdirSync(join(directory, "cache", "cuda"));

  test("gets the text and the options, and gives the cubin and what was said", async () => {
    const { binary, log } = await nvrtc.compileInBackground("kernel text", "k", ["--first", "--second=2"]);
    expect(decode(binary)).toBe("\x7fELF--first\n--second=2\nkernel text");
    expect(log).toContain("Compiling entry function 'k'");
  });

  test("says what it refused, by the kernel's name and in its own words", async () => {
    await expect(nvrtc.compileInBackground("#error", "bad_kernel", [])).rejects.toThrow(
      "bad_kernel: NVRTC_ERROR_COMPILATION (6)\nbad_kernel.cu(1): error: #error",
    );
    await expect(nvrtc.compileInBackground("nothing", "k", ["--gpu-architecture=compute_90"])).rejects.toThrow(
      /made no cubin; .*compute_90/,
    );
  });

  test("compiles side by side", async () => {
    const start = performance.now();
    await Promise.all([1, 2, 3, 4].map((i) => nvrtc.compileInBackground(`slow ${i}`, "k", [])));
    expect(performance.now() - start).toBeLessThan(700);
  });

  const toolchain = toolchainWith(() => nvrtc);

  test("its version and the options are the toolchain's", () => {
    expect(toolchain.version(caps)).toBe("nvrtc 13.7 --gpu-architecture=sm_90 --ptxas-options=-v");
    expect(toolchain.version(cudaBackend.caps("sm_80"))).toContain("sm_80");
  });

  test("the toolchain gives one archive, each kernel once, and compiles nothing twice", async () => {
    const bytes = await toolchain.compile([source("a"), source("b"), source("a")], caps);
    const { computeCapability, kernels, members } = readCubins(bytes);
    expect(computeCapability).toBe(90);
    expect(kernels).toEqual([
      { entry: "a", threads: 64, symbols: 1, member: "a.cubin" },
      { entry: "b", threads: 64, symbols: 1, member: "b.cubin" },
    ]);
    expect(decode(members[1]!.data)).toBe("\x7fELF--gpu-architecture=sm_90\n--ptxas-options=-v\nb");
    expect(cached()).toHaveLength(2);
    const compile = vi.fn(nvrtc.compileInBackground);
    const again = toolchainWith(() => ({ ...nvrtc, compileInBackground: compile }));
    expect(await again.compile([source("b"), source("a")], caps)).toHaveLength(bytes.length);
    expect(compile).not.toHaveBeenCalled();
    // another architecture is something else
    await again.compile([source("a")], cudaBackend.caps("sm_80"));
    expect(compile).toHaveBeenCalledTimes(1);
    expect(cached()).toHaveLength(3);
  });

  test("two kernels of one name, which would be launched as one, are refused", async () => {
    const other = { ...source("a"), launch: { threads: 64, symbols: 2 } };
    await expect(toolchain.compile([source("a"), other], caps)).rejects.toThrow(
      "two kernels are called a: of 64 threads and 1 symbols, and of 64 and 2",
    );
  });

  test("a kernel that spills is an error that names it and its configuration, and is not kept", async () => {
    await expect(toolchain.compile([source("spilling", "spill")], caps)).rejects.toThrow(
      'spilling (layers.3.mlp: gemm {"bm":64}): it keeps registers in memory: 8 bytes of stack, 4 bytes of spill stores and 4 of spill loads with 255 registers; take another configuration',
    );
    expect(() => cached()).toThrow();
  });

  test("a kernel of whose registers nobody says anything is an error, and is not kept", async () => {
    await expect(toolchain.compile([source("quiet", "silent")], caps)).rejects.toThrow(
      /quiet \(layers.3.mlp: gemm .*\): NVRTC 13.7 \(.*\) gave no report of its registers.*--ptxas-options=-v asks for, got nothing/,
    );
    expect(() => cached()).toThrow();
  });

  test("what NVRTC has in its own cache, and says nothing of, is compiled anew", async () => {
    const { members } = readCubins(await toolchain.compile([source("again", "known")], caps));
    expect(decode(members[0]!.data)).toMatch(/known\nextern "C" __global__ void fresh_[0-9a-f]{32}\(\) \{\}\n$/);
  });

  test("sources of another language are refused", async () => {
    await expect(toolchain.compile([{ ...source("k"), language: "wgsl" }], caps)).rejects.toThrow("k is wgsl source");
  });
});

import { afterEach, describe, expect, test, vi } from "vitest";
import { cudaBackend } from "../../../backends/cuda/index.ts";
import { CODES } from "../../../ffi/cuda-errors.ts";
import { cudaTarget } from "../../../models/auto/engine-cuda.ts";
import { cuda } from "../../../runtime/drivers/cuda/device.ts";
import { isUserError } from "../../../runtime/errors.ts";
import { openArtifact } from "../../../runtime/steps.ts";
import { culm } from "../../support/cli.ts";
import { FakeCuda, fakeKernels } from "../../support/fake-cuda.ts";
import type { FakeKernel, FakeOptions } from "../../support/fake-cuda.ts";
import { tinyFolder } from "../../support/model-folder.ts";

const kernels: Readonly<Record<string, FakeKernel>> = { count: { params: 1, symbols: 0, body: () => undefined } };
const driver = (options: FakeOptions = {}) => cuda(new FakeCuda({ kernels, ...options }));

/** Message and hint of what is thrown, which must be for the user to mend. */
async function refusal(body: () => unknown): Promise<string> {
  try {
    await body();
  } catch (error) {
    expect(isUserError(error), String(error)).toBe(true);
    return `${(error as Error).message} | ${(error as { readonly hint?: string }).hint ?? ""}`;
  }
  throw new Error("was not refused");
}

describe("a GPU", () => {
  test("older than Ampere is refused with what it is and what is needed, before a context is made", async () => {
    const library = new FakeCuda({ gpus: [{ name: "Tesla V100", computeCapability: 70 }] });
    const said = await refusal(() => cuda(library).open());
    expect(said).toBe(
      "Tesla V100 has compute capability 7.0, culm's CUDA kernels need 8.0 (Ampere) or later | use another GPU, --backend webgpu, or --backend llvm",
    );
    expect(library.live.size).toBe(0);
    expect(await refusal(() => cudaTarget(cuda(library)))).toContain("compute capability 7.0");
  });

  test("that is not there is refused with the numbers that there are", async () => {
    expect(await refusal(() => driver({ gpus: [{}, {}] }).open({ index: 2 }))).toContain(
      "there is no GPU 2: the CUDA driver numbers its GPUs from 0 to 1",
    );
    expect(await refusal(() => driver({ gpus: [] }).open())).toContain("finds no NVIDIA GPU");
    expect(await refusal(() => driver().open({ threads: 3 }))).toContain("a GPU has no number of threads");
  });

  test("of another architecture than an artifact's is refused with both", async () => {
    const requires = { features: ["compute-10"], limits: { computeCapability: 103 }, subgroup: null };
    expect(await refusal(() => driver().open({ requires }))).toBe(
      "NVIDIA H200 cannot run this model: it has compute capability 9.0 (the kernels are for 10.x), compute capability 9.0 (wanted 10.3) | compile the model on this machine, or with --target cuda:sm_90",
    );
    const alone = { features: ["compute-9", "sm_91a"], limits: {}, subgroup: null };
    expect(await refusal(() => driver().open({ requires: alone }))).toContain(
      "NVIDIA H200 cannot run this model: it has compute capability 9.0 (the kernels are for 9.1 alone) | compile the model on this machine",
    );
    for (const target of ["sm_90a", "sm_90a-tf32", "sm_90x78-tf32"])
      await expect(driver().open({ requires: cudaBackend.caps(target).requires })).resolves.toBeDefined();
    expect(await refusal(() => driver().open({ requires: { features: ["fp4"], limits: { warps: 8 }, subgroup: 64 } }))).toContain(
      "no feature fp4, no limit warps (wanted 8), warps of 32 lanes (wanted 64)",
    );
  });
});

describe("kernels", () => {
  test.each([
    [100, "its kernels are for sm_100, NVIDIA H200 is sm_90"],
    [80, "its kernels are for sm_80, NVIDIA H200 is sm_90"],
  ])("for sm_%i are refused before the driver sees them", async (computeCapability, message) => {
    const library = new FakeCuda({ kernels });
    const device = await cuda(library).open();
    const said = await refusal(() => device.load(fakeKernels(kernels, { computeCapability })));
    expect(said).toContain(message);
    expect(said).toContain("with --target cuda:sm_90");
    expect(library.calls.has("cuModuleLoadData")).toBe(false);
  });

  test.each([
    [
      CODES.noBinary,
      "kernels.bin: kernels.cubin has no code for NVIDIA H200: cuModuleLoadData: CUDA_ERROR_NO_BINARY_FOR_GPU (209)",
      "compile the model again on this machine",
    ],
    [CODES.unsupportedPtx, "was made by a newer CUDA than NVIDIA H200's driver (for CUDA 13.0) knows", "install a newer driver"],
    [CODES.invalidImage, "is no program that NVIDIA H200's driver (for CUDA 13.0) can read", "--no-cache"],
  ])("that the driver refuses with %i are told with what to do, and the device goes on", async (code, message, hint) => {
    let refused = 0;
    const device = await driver({ refuse: (call) => (call === "cuModuleLoadData" && refused++ === 0 ? code : undefined) }).open();
    const said = await refusal(() => device.load(fakeKernels(kernels)));
    expect(said).toContain(message);
    expect(said).toContain(hint);
    expect((await device.load(fakeKernels(kernels))).kernel("count").entry).toBe("count");
  });

  test("that are damaged, or lack one that is asked for", async () => {
    const device = await driver().open();
    expect(await refusal(() => device.load(new Uint8Array(100)))).toMatch(/^kernels.bin: .* \| these are not whole kernels for CUDA/);
    const module = await device.load(fakeKernels(kernels));
    expect(await refusal(() => module.kernel("other"))).toContain("there is no kernel other");
    const foreign = await cuda(new FakeCuda({ kernels: {} })).open();
    const index = fakeKernels(kernels);
    const text = new TextDecoder("latin1").decode(index);
    const broken = Uint8Array.from(text.replace('{"count":1}', '{"conut":1}'), (c) => c.charCodeAt(0));
    expect(await refusal(() => foreign.load(broken))).toContain("kernels.cubin has no kernel count, which its index names");
  });
});

test("a model that is too large is refused with the plan, before anything of it is on the device", async () => {
  const library = new FakeCuda({ kernels, gpus: [{ totalBytes: 64 << 20 }] });
  const device = await cuda(library).open();
  const before = library.live.size;
  const manifest = {
    format: "culm-artifact",
    version: 2,
    compiler: "test",
    name: "large",
    target: { backend: "cuda", caps: "sm_90", toolchain: "none", requires: { features: [], limits: {}, subgroup: null } },
    weights: [
      { name: "w", dtype: "bf16", parts: [{ tensor: "w", shape: [1 << 20, 10] }], rows: 1 << 20, cols: 10, panel: 0, bytes: 20 << 20 },
    ],
    literals: [],
    states: [{ name: "keys", dtype: "f32", shape: ["batch", 1024, 4096], bytes: 64 << 20 }],
    programs: [
      {
        name: "decode.4",
        symbols: [
          { name: "batch", min: 1, max: 4 },
          { name: "past", min: 0, max: 1023 },
        ],
        inputs: [],
        outputs: [{ name: "logits", dtype: "f32", shape: ["batch", 100], bytes: 1600 }],
        arenas: [1 << 20],
        steps: [],
      },
    ],
    kernels: [],
    metadata: { positionAxes: { keys: 1 } },
  } as const;
  const tensors = new Map([["w", { dtype: "BF16", shape: [1 << 20, 10], file: "here" }]] as const);
  const source = { path: "here", tensors, readInto: () => Promise.reject(new Error("weights are read")) };
  const said = await refusal(() => openArtifact(device, { manifest, kernels: fakeKernels(kernels), literals: new Uint8Array(0) }, source));
  expect(said).toMatch(
    /^NVIDIA H200: not enough memory; the model needs .* MB: weights 21\.0 MB, states 16\.8 MB, keys and values 67\.1 MB \(65\.5 kB a position, 1024 positions, 4 rows\), between kernels 1\.05 MB, inputs and outputs 1\.60 kB; 67\.1 MB are free \| at most 431 positions fit \(--max-length 431\)/,
  );
  expect(library.live.size).toBe(before);
  expect(library.calls.has("cuModuleLoadData")).toBe(false);
});

describe("on the command line", () => {
  afterEach(() => vi.unstubAllEnvs());
  test("without a driver there is a message with what to do, no stack, and exit code 1", async () => {
    vi.stubEnv("CULM_CUDA", "/nowhere/libcuda.so.1");
    for (const command of [
      ["generate", "--model", tinyFolder, "--prompt", "x", "--device", "cuda"],
      ["bench", "--model", tinyFolder, "--device", "cuda"],
    ]) {
      const { code, err, out } = await culm(...command);
      expect({ code, out }).toEqual({ code: 1, out: "" });
      expect(err).toContain("error: the CUDA driver was not found; tried /nowhere/libcuda.so.1");
      expect(err).toContain("hint: install NVIDIA's driver");
      expect(err).not.toContain("    at ");
    }
  });

  test("without NVRTC an artifact cannot be compiled, and the message says where it comes from", async () => {
    vi.stubEnv("CULM_NVRTC", "/nowhere/libnvrtc.so");
    const { code, err } = await culm("compile", "--model", tinyFolder, "--target", "cuda:sm_90", "--out", "/nowhere/out");
    expect(code).toBe(1);
    expect(err).toContain("error: libnvrtc, which compiles kernels for CUDA, was not found; tried /nowhere/libnvrtc.so");
    expect(err).toContain("CULM_NVRTC");
    expect(err).not.toContain("    at ");
  });
});

import { delimiter, dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { findLavapipe, useLavapipe } from "../../scripts/engines.mjs";
import { culm, launch } from "../support/cli.ts";
import { scratchFolder, tinyFolder } from "../support/model-folder.ts";
import { lavapipeAvailable } from "../support/webgpu.ts";

const scratch = scratchFolder("cli-webgpu");
afterAll(scratch.remove);
const generate = ["generate", "--model", tinyFolder, "--prompt", "It", "--max-new-tokens", "2", "--backend", "webgpu"] as const;

describe("the command line with the backend webgpu", () => {
  test("where there is no GPU: what was tried, and what to do", async () => {
    const { code, out, err } = await launch(generate, { env: { VK_ICD_FILENAMES: "/nowhere/icd.json" } });
    expect({ code, out }).toEqual({ code: 1, out: "" });
    expect(err).toContain("error: WebGPU found no adapter");
    if (process.platform === "linux") expect(err).toMatch(/hint: Vulkan was told to use \/nowhere\/icd.json.*lavapipe/);
  });

  test("where the optional package is not installed", async () => {
    const missing = `import { register } from "node:module";
      register("data:text/javascript," + encodeURIComponent(\`export async function resolve(name, context, next) {
        if (name === "webgpu") throw Object.assign(new Error("Cannot find package 'webgpu'"), { code: "ERR_MODULE_NOT_FOUND" });
        return next(name, context);
      }\`));`;
    const { code, err } = await launch(generate, { env: { NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(missing)}` } });
    expect(code).toBe(1);
    expect(err).toContain("error: WebGPU in Node needs the package webgpu, which is not installed");
    expect(err).toContain("hint: npm install webgpu");
  });

  test("a target that there is not, or that is for another backend", async () => {
    const compiled = (target: string, ...more: string[]): Promise<{ readonly code: number; readonly err: string }> =>
      culm("compile", "--model", tinyFolder, "--out", join(scratch.path, "none.culm"), "--target", target, ...more);
    expect(await compiled("wgsl:base-sg5")).toMatchObject({
      code: 1,
      err: expect.stringMatching(/target base-sg5: .*base or large/) as string,
    });
    expect(await compiled("spirv:base")).toMatchObject({ code: 1, err: expect.stringContaining("there is no language spirv") as string });
    expect(await compiled("wgsl", "--backend", "llvm")).toMatchObject({
      code: 1,
      err: expect.stringContaining("--target wgsl is for --backend webgpu, not llvm") as string,
    });
  });

  test("compiles for WebGPU without one, and inspect says what a device needs", async () => {
    const folder = join(scratch.path, "tiny.culm");
    const { code, err } = await culm(
      "compile",
      "--model",
      tinyFolder,
      "--out",
      folder,
      "--target",
      "wgsl:base-sg32-f16",
      "--max-length",
      "64",
    );
    expect({ code, err }).toMatchObject({ code: 0, err: expect.stringContaining("kernels for base-sg32-f16") as string });
    const { out } = await culm("inspect", "--artifact", folder);
    expect(out).toContain("for wgsl base-sg32-f16");
    expect(out).toMatch(/needs feature subgroups, feature shader-f16, subgroups of 32 lanes, maxStorageBufferBindingSize 134217728/);
    const json = JSON.parse((await culm("inspect", "--artifact", folder, "--json")).out) as { readonly target: unknown };
    expect(json.target).toMatchObject({ backend: "wgsl", requires: { features: ["subgroups", "shader-f16"], subgroup: 32 } });
  });
});

describe.skipIf(!lavapipeAvailable)("a GPU that has too little", () => {
  beforeAll(() => void useLavapipe());
  // a process of its own has loaded none of the libraries that this one has
  const env = (): Record<string, string> => {
    const folders = (findLavapipe()?.libraries ?? []).map((path) => dirname(path));
    return { LD_LIBRARY_PATH: [...new Set(folders), process.env["LD_LIBRARY_PATH"] ?? ""].filter((path) => path !== "").join(delimiter) };
  };

  test.each([
    ["base-sg64", "subgroups of 8 to 8 lanes (wanted 64)"],
    ["large", "maxStorageBufferBindingSize 134217728 (wanted 1073741824)"],
  ])("for %s", async (target, message) => {
    const { code, err } = await launch([...generate, "--target", target, "--max-length", "64"], { env: env() });
    expect(code).toBe(1);
    expect(err).toContain(`cannot run this model: it has`);
    expect(err).toContain(message);
    expect(err).toContain("--target wgsl:base");
  });

  test("threads are the CPU's", async () => {
    const { code, err } = await launch([...generate, "--threads", "2"]);
    expect(code).toBe(1);
    expect(err).toContain("threads (--threads) are the CPU's");
  });
});

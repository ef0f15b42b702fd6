import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { compileFolder } from "../../models/auto/inspect.ts";
import { writeWebBundle } from "../../models/auto/web.ts";
import { cpu } from "../../runtime/drivers/cpu/device.ts";
import { writeArtifactFiles } from "../../runtime/node/artifact.ts";
import { finishBundle } from "../../runtime/node/web-bundle.ts";
import { parseBundle } from "../../runtime/web/bundle.ts";
import { connectModel } from "../../runtime/web/client.ts";
import type { ModelClient } from "../../runtime/web/client.ts";
import type { PageDriver } from "../../runtime/web/open.ts";
import type { Progress, Token } from "../../runtime/web/protocol.ts";
import { serveModel } from "../../runtime/web/serve.ts";
import { culm } from "../support/cli.ts";
import { copyModel, scratchFolder, tinyFolder } from "../support/model-folder.ts";
import { serveFolders } from "../support/static-server.ts";
import type { StaticServer } from "../support/static-server.ts";
import { memoryCache, testPlatform, workerPair } from "../support/web.ts";

/**
 * Bundle, server, loader, worker and client with the CPU driver in the place of WebGPU's: what is tested here has nothing to do with kernels, and tests/web has
 * all of it together in a browser.
 */

const scratch = scratchFolder("web");
const folder = `${scratch.path}/model`;
const cache = memoryCache();
const notes: string[] = [];
const losses: string[] = [];
let server: StaticServer;
let lose: (info: { readonly reason: string; readonly message: string }) => void = () => undefined;

const driver: PageDriver = {
  name: "cpu",
  facts: () =>
    Promise.resolve({
      name: "a CPU",
      vendor: "",
      architecture: "",
      device: "",
      description: "",
      features: ["timestamp-query"],
      limits: {},
      subgroupMinSize: 0,
      subgroupMaxSize: 0,
    }),
  open: async () =>
    Object.assign(await cpu.open(), { gpu: { lost: new Promise<{ reason: string; message: string }>((done) => (lose = done)) } }),
};

interface Single {
  readonly prompt: string;
  readonly prompt_ids: number[];
  readonly output_ids: number[];
  readonly text: string;
}
const reference = new URL("../reference/bamba-tiny/reference_generations.json", import.meta.url);
const { generations } = JSON.parse(readFileSync(reference, "utf8")) as { generations: (Single | object)[] };
const singles = generations.filter((g): g is Single => "prompt_ids" in g);

/** A bundle as the compiler writes it, the kernels of its variants replaced by those of this machine's processor. */
async function writeBundle(): Promise<void> {
  const options = { maxLength: 256, prefillChunk: 64 };
  await writeWebBundle(tinyFolder, folder, { ...options, variants: ["large-sg32", "large"] });
  const { files: _files, blockBytes: _bytes, ...facts } = parseBundle(readFileSync(`${folder}/model.json`, "utf8"), "model.json");
  const { artifact } = await compileFolder(tinyFolder, options);
  await writeArtifactFiles(`${folder}/wgsl/large`, artifact);
  const variants = facts.variants.map((variant) =>
    variant.caps === "large" ? { ...variant, caps: artifact.manifest.target.caps, requires: artifact.manifest.target.requires } : variant,
  );
  await finishBundle(folder, { ...facts, variants });
}

describe("a model in a page, but for the page and its graphics processor", () => {
  let client: ModelClient;

  beforeAll(async () => {
    await writeBundle();
    server = await serveFolders({ "/": scratch.path });
    const { worker, scope } = workerPair();
    serveModel(scope, { platform: testPlatform(cache), driver: () => driver });
    client = connectModel(worker, { onNote: (message) => notes.push(message), onLost: (message) => losses.push(message) });
  });

  afterAll(async () => {
    await client.close();
    await server.close();
    scratch.remove();
  });

  const url = (): string => `${server.origin}/model`;

  test("is opened with progress; of the variants only the one that the adapter can run is loaded", async () => {
    const seen: Progress[] = [];
    const facts = await client.open(url(), { onProgress: (progress) => seen.push(progress) });
    expect(facts).toMatchObject({ name: "bamba-tiny", dtype: "bf16", vocabSize: 4096, maxLength: 256, timing: true, chat: false });
    expect(facts.caps).toMatch(/^x86-64|^aarch64/);
    expect(facts.downloaded).toBe(facts.bytes);
    expect([...new Set(seen.map(({ stage }) => stage))]).toEqual(["adapter", "kernels", "weights"]);
    expect(seen.at(-1)).toMatchObject({ bytes: facts.bytes, total: facts.bytes, cached: 0 });
    expect(server.log.some(({ path }) => path.includes("large-sg32"))).toBe(false);
    // Every part of the weights once.
    const ranges = server.log.filter(({ path }) => path.endsWith(".safetensors")).map(({ range }) => range);
    expect(new Set(ranges).size).toBe(ranges.length);
    expect(ranges.length).toBe(2);
  });

  test.each(singles)("writes what Transformers writes after $prompt", async ({ prompt, text, prompt_ids: promptIds, output_ids: ids }) => {
    const tokens: Token[] = [];
    const made = ids.length - promptIds.length;
    const result = await client.generate(prompt, { maxNewTokens: made }, { onToken: (token) => tokens.push(token) });
    expect(result.ids).toEqual(ids.slice(promptIds.length));
    expect(prompt + tokens.map((token) => token.text).join("") + result.rest).toBe(text);
    expect(tokens.map(({ count }) => count)).toEqual(Array.from({ length: made }, (_, i) => i + 1));
    expect(result).toMatchObject({ reason: "length", promptTokens: promptIds.length, newTokens: made });
  });

  test("stops in the middle of a text", async () => {
    const abort = new AbortController();
    const onToken = ({ count }: Token): void => {
      if (count === 3) abort.abort();
    };
    const result = await client.generate("Once", { maxNewTokens: 200 }, { signal: abort.signal, onToken });
    expect(result.reason).toBe("aborted");
    expect(result.newTokens).toBeLessThan(200);
  });

  test("a drawn text is repeated by its seed", async () => {
    const settings = { doSample: true, temperature: 1.2, topK: 40, maxNewTokens: 12 };
    const first = await client.generate("Once", settings);
    const second = await client.generate("Once", { ...settings, seed: first.seed });
    expect(second.ids).toEqual(first.ids);
  });

  test("kernels are timed, and named by what they are", async () => {
    const { steps, past } = await client.profile();
    expect(past).toBeGreaterThan(0);
    expect(steps.every(({ milliseconds, label }) => milliseconds > 0 && label !== "")).toBe(true);
    expect(new Set(steps.map(({ template }) => template)).size).toBeGreaterThan(3);
  });

  test("what is asked meanwhile is refused, and so are settings that make no sense and a chat without template", async () => {
    const running = client.generate("Once", { maxNewTokens: 4 });
    await expect(client.profile()).rejects.toMatchObject({ kind: "user", message: "the model is at work on something else" });
    await running;
    await expect(client.generate("Once", { doSample: true, topP: 7 })).rejects.toMatchObject({ kind: "user", message: /^topP: expected/ });
    await expect(client.generate([{ role: "user", content: "Hello" }])).rejects.toMatchObject({ kind: "user", message: /template/ });
    await expect(client.generate("Once", { maxNewTokens: 5000 })).rejects.toMatchObject({ kind: "user" });
  });

  test("a device that is lost is told, and the model opened again from the cache", async () => {
    lose({ reason: "unknown", message: "the driver was reset" });
    await expect.poll(() => losses).toEqual(["the driver was reset"]);
    await expect(client.generate("Once")).rejects.toMatchObject({
      kind: "lost",
      message: "the graphics device is gone (the driver was reset)",
      hint: "open the model again",
    });
    const before = server.log.length;
    const facts = await client.reopen();
    expect(facts.downloaded).toBe(0);
    expect(server.log.slice(before).map(({ path }) => path)).toEqual(["/model/model.json"]);
    expect((await client.generate("It was the best of", { maxNewTokens: 4 })).newTokens).toBe(4);
    expect(notes).toEqual([]);
  });

  test("closed, it is gone, and a loss is none", async () => {
    await client.close();
    lose({ reason: "destroyed", message: "" });
    await expect(client.generate("Once")).rejects.toMatchObject({ kind: "user", message: "no model is open" });
    expect(losses).toHaveLength(1);
  });

  test("weights that were cut short are found before anything runs", async () => {
    const path = `${folder}/weights/model.safetensors`;
    const whole = readFileSync(path);
    cache.entries.clear();
    writeFileSync(path, whole.subarray(0, 10_000_000));
    await expect(client.open(url())).rejects.toMatchObject({
      kind: "user",
      message: /model\.safetensors: the file is not the one that model\.json describes: it has 10000000 bytes, expected \d+/,
    });
    writeFileSync(path, whole);
    await client.open(`${url()}/model.json`);
  });
});

test("what cannot become a model for a page is refused before anything is written", async () => {
  const out = scratch.fresh();
  const refused = async (...flags: readonly string[]): Promise<string> => {
    const { code, err } = await culm("compile", "--model", tinyFolder, "--out", out, ...flags);
    expect(code).toBe(1);
    expect(existsSync(out)).toBe(false);
    return err;
  };
  expect(await refused("--web", "--variants", "base,huge")).toMatch(/variants \(--variants\): .*there is no target "huge"/);
  expect(await refused("--web", "--batch", "2")).toMatch(/one prompt at a time/);
  expect(await refused("--web", "--target", "llvm:x86-64-avx2")).toMatch(/a page runs WebGPU, in several variants/);
  expect(await refused("--variants", "base")).toMatch(/--variants goes with --web/);
  const model = copyModel(tinyFolder, scratch.fresh());
  model.config({ rope_parameters: { rope_type: "dynamic", rope_theta: 10000, factor: 2, partial_rotary_factor: 0.5 } });
  await expect(writeWebBundle(model.path, out)).rejects.toThrow(/changes with the length of the text/);
  mkdirSync(out);
  writeFileSync(`${out}/mine.txt`, "mine");
  await expect(writeWebBundle(tinyFolder, out, { variants: ["large"] })).rejects.toThrow(/exists already and is not a model for a page/);
  expect(readdirSync(out)).toEqual(["mine.txt"]);
});

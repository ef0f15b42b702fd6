import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { writeWebBundle } from "../../models/auto/web.ts";
import { webgpu } from "../../runtime/drivers/webgpu/device.ts";
import { connectModel } from "../../runtime/web/client.ts";
import type { ModelClient } from "../../runtime/web/client.ts";
import type { Progress, Token } from "../../runtime/web/protocol.ts";
import { serveModel } from "../../runtime/web/serve.ts";
import { scratchFolder, tinyFolder } from "../support/model-folder.ts";
import { serveFolders } from "../support/static-server.ts";
import type { StaticServer } from "../support/static-server.ts";
import { memoryCache, testPlatform, workerPair } from "../support/web.ts";
import { lavapipe, lavapipeAvailable } from "../support/webgpu.ts";

const scratch = scratchFolder("web");
const cache = memoryCache();
let server: StaticServer;
const notes: string[] = [];
const losses: string[] = [];
/** The device of the model that is open, to take away. */
let device: { destroy(): void } | undefined;

function connected(): ModelClient {
  const { worker, scope } = workerPair();
  serveModel(scope, {
    platform: testPlatform(cache),
    driver: () => {
      const driver = webgpu(lavapipe());
      return {
        ...driver,
        open: async (options) => {
          const opened = await driver.open(options);
          device = opened.gpu;
          return opened;
        },
      };
    },
  });
  return connectModel(worker, { onNote: (message) => notes.push(message), onLost: (message) => losses.push(message) });
}

describe.skipIf(!lavapipeAvailable)("a model in a page, but for the page: bundle, server, loader and worker", () => {
  let client: ModelClient;

  beforeAll(async () => {
    await writeWebBundle(tinyFolder, `${scratch.path}/model`, { variants: ["large-sg32", "base-sg8"], maxLength: 256, prefillChunk: 64 });
    server = await serveFolders({ "/": scratch.path });
    client = connected();
  });

  afterAll(async () => {
    await client.close();
    await server.close();
    scratch.remove();
  });

  const url = (): string => `${server.origin}/model`;

  test("is opened with progress", async () => {
    const seen: Progress[] = [];
    const facts = await client.open(url(), { onProgress: (progress) => seen.push(progress) });
    expect(facts).toMatchObject({
      name: "bamba-tiny",
      caps: "base-sg8",
      dtype: "bf16",
      vocabSize: 4096,
      maxLength: 256,
      timing: true,
      chat: false,
    });
    expect(facts.downloaded).toBe(facts.bytes);
    expect([...new Set(seen.map(({ stage }) => stage))]).toEqual(["adapter", "kernels", "weights"]);
    expect(seen.at(-1)!.bytes).toBe(seen.at(-1)!.total);
    expect(server.log.some(({ path }) => path.includes("large-sg32"))).toBe(false);
  });

  test("writes what the model writes elsewhere, piece by piece", async () => {
    const tokens: Token[] = [];
    const result = await client.generate("It was the best of", { maxNewTokens: 16 }, { onToken: (token) => tokens.push(token) });
    expect(tokens.map(({ text }) => text).join("") + result.rest).toMatchInlineSnapshot();
    expect(tokens.at(-1)!.count).toBe(16);
    expect(result).toMatchObject({ reason: "length", newTokens: 16 });
  });

  test("stops", async () => {
    const abort = new AbortController();
    const result = await client.generate(
      "Once",
      { maxNewTokens: 200 },
      { signal: abort.signal, onToken: ({ count }) => count === 3 && abort.abort() },
    );
    expect(result.reason).toBe("aborted");
    expect(result.newTokens).toBeLessThan(10);
  });

  test("a drawn text is repeated by its seed", async () => {
    const settings = { doSample: true, temperature: 1.2, topK: 40, maxNewTokens: 8 };
    const first = await client.generate("Once", settings);
    const second = await client.generate("Once", { ...settings, seed: first.seed });
    expect(second.ids).toEqual(first.ids);
  });

  test("kernels are timed", async () => {
    const { steps, past } = await client.profile();
    expect(past).toBeGreaterThan(0);
    expect(steps.length).toBeGreaterThan(20);
    expect(steps.every(({ milliseconds }) => milliseconds >= 0)).toBe(true);
    expect(new Set(steps.map(({ template }) => template)).size).toBeGreaterThan(3);
  });

  test("what is asked meanwhile is refused, and settings that make no sense are", async () => {
    const running = client.generate("Once", { maxNewTokens: 4 });
    await expect(client.profile()).rejects.toMatchObject({ kind: "user", message: "the model is at work on something else" });
    await running;
    await expect(client.generate("Once", { doSample: true, topP: 7 })).rejects.toMatchObject({ kind: "user", message: /^topP: expected/ });
  });

  test("a device that is lost in the middle of a text is told, and opened again from the cache", async () => {
    const text = client.generate("Once", { maxNewTokens: 200 }, { onToken: ({ count }) => count === 3 && device!.destroy() });
    await expect(text).rejects.toMatchObject({ kind: "lost" });
    expect(losses).toHaveLength(1);
    await expect(client.generate("Once")).rejects.toMatchObject({ kind: "lost" });
    const before = server.log.length;
    const facts = await client.reopen();
    expect(facts.downloaded).toBe(0);
    expect(server.log.slice(before).map(({ path }) => path)).toEqual(["/model/model.json"]);
    expect((await client.generate("It was the best of", { maxNewTokens: 4 })).newTokens).toBe(4);
    expect(notes).toEqual([]);
  });
});

import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { gzipSync } from "node:zlib";
import type { Browser } from "playwright-core";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { chromiumAvailable, launchChromium } from "../support/browser.ts";
import type { Site } from "../support/site.ts";
import { buildSite } from "../support/site.ts";
import type { StaticServer } from "../support/static-server.ts";
import { replacing, serveFolders } from "../support/static-server.ts";
import type { Desk } from "./desk.ts";
import { openDesk } from "./desk.ts";

interface Generation {
  readonly prompt: string;
  readonly prompt_ids: readonly number[];
  readonly output_ids: readonly number[];
  readonly text: string;
}
/** Greedy continuations by Transformers. */
const { generations } = JSON.parse(readFileSync("tests/reference/bamba-tiny/reference_generations.json", "utf8")) as {
  generations: Generation[];
};
/** The model's likeliest tokens, with nothing done to their scores. */
const greedy = { Tokens: "Greedy", "Repetition penalty": 1 };

const folder = mkdtempSync(join(tmpdir(), "culm-web-"));
const filesBelow = (path: string): string[] =>
  readdirSync(path, { recursive: true, encoding: "utf8" })
    .map((name) => join(path, name))
    .filter((name) => statSync(name).isFile());
const sizes = (files: readonly string[]): number => files.reduce((sum, file) => sum + statSync(file).size, 0);

let site: Site;
let server: StaticServer;
beforeAll(async () => {
  site = buildSite(folder);
  server = await serveFolders({ "/": folder });
  const worker = filesBelow(folder).find((file) => /worker-[^/]*\.js$/.test(file))!;
  server.fault = replacing({
    "/model/model.json": JSON.stringify(site.bundle),
    [`/assets/${basename(worker)}`]: `${watchDevices}\n${readFileSync(worker, "utf8")}`,
  });
}, 600_000);
afterAll(async () => {
  await server.close();
  rmSync(folder, { recursive: true, force: true });
});

test("the model for a page is below 20 MB, and the page's JavaScript below 150 kB in gzip", () => {
  expect(site.all.variants.length).toBeGreaterThan(1);
  expect(sizes(filesBelow(join(folder, "model")))).toBeLessThan(20e6);
  const scripts = filesBelow(folder).filter((file) => file.endsWith(".js"));
  expect(scripts.length).toBeGreaterThan(1);
  const zipped = scripts.reduce((sum, file) => sum + gzipSync(readFileSync(file), { level: 9 }).length, 0);
  expect(zipped).toBeLessThan(150e3);
});

// SwiftShader takes about a minute for the kernels, and a second for a token.
describe.skipIf(!chromiumAvailable)("the page in Chromium", { timeout: 300_000 }, () => {
  let browser: Browser;
  let desk: Desk;
  beforeAll(async () => {
    browser = await launchChromium();
    desk = await openDesk(browser, `${server.origin}/`);
    await desk.status.filter({ hasText: /^Ready|wrong/ }).waitFor();
    expect(await desk.problem.allInnerTexts()).toEqual([]);
  }, 600_000);
  afterAll(() => browser.close());
  afterEach(() => expect(desk.errors).toEqual([]));

  test("says what it runs on", async () => {
    const facts = await desk.region("Model and device").innerText();
    expect(facts).toContain("bamba-tiny, 6.8 M parameters");
    expect(facts).toMatch(/SwiftShader/i);
    expect(facts).toMatch(/Subgroups\s+4 lanes/);
    expect(facts).toMatch(/Variant\s+(base|large)/);
    expect(facts).toMatch(/Loaded\s+1\d\.\d MB/);
  });

  test("writes what Transformers writes, token for token, and begins another text as it does", async () => {
    const [whole, other] = [generations[0]!, generations[1]!];
    const count = whole.output_ids.length - whole.prompt_ids.length;
    await desk.set({ ...greedy, Length: count });
    expect(whole.prompt + (await desk.write(whole.prompt))).toBe(whole.text);
    expect(await desk.status.innerText()).toBe(`Done: ${count} tokens, the length was reached`);
    await desk.set({ Length: 8 });
    const beginning = await desk.write(other.prompt);
    expect(beginning.length).toBeGreaterThan(8);
    expect(other.text.startsWith(other.prompt + beginning)).toBe(true);
  });

  test("shows the text while it grows, and how fast; Escape ends it", async () => {
    await desk.set({ ...greedy, Length: 1000 });
    await desk.prompt.fill("The whale");
    await desk.prompt.press("Control+Enter");
    await desk.status.filter({ hasText: "Writing" }).waitFor();
    const lengths = new Set<number>();
    while (lengths.size < 4) lengths.add((await desk.answer.textContent())?.length ?? 0);
    await desk.page.keyboard.press("Escape");
    await desk.status.filter({ hasText: /^Done: \d+ tokens, stopped$/ }).waitFor();
    expect(await desk.region("Text").innerText()).toMatch(/Tokens a second\s+[\d.]+\s+First token after\s+[\d.]+ m?s/);
  });

  test("draws the same text again with the same seed, and another with another", async () => {
    await desk.set({ Tokens: "Sample", Length: 6, Seed: 7 });
    const first = await desk.write("Once upon a time");
    expect(await desk.write("Once upon a time")).toBe(first);
    await desk.set({ Seed: 8 });
    expect(await desk.write("Once upon a time")).not.toBe(first);
    expect(await desk.region("Text").innerText()).toMatch(/Seed\s+8$/m);
  });

  test("does not write with settings that it says are wrong", async () => {
    await desk.set({ Temperature: "hot" });
    expect(await desk.region("Settings").innerText()).toContain("Enter a number.");
    await expect.poll(() => desk.generate.getAttribute("aria-disabled")).toBe("true");
    await desk.set({ Temperature: "0.8" });
    await expect.poll(() => desk.generate.getAttribute("aria-disabled")).toBe("false");
  });

  test("shows where the time of a token goes, kernel by kernel", async () => {
    const kernels = desk.region("Where the time of a token goes");
    await kernels.getByText(/^\d+ kernels run for a token/).waitFor();
    const segments = kernels.getByRole("group").getByRole("button");
    expect(await segments.count()).toBeGreaterThan(10);
    await segments.first().focus();
    await desk.page.keyboard.press("ArrowRight");
    expect(await kernels.locator(":focus").getAttribute("aria-label")).toBe(await segments.nth(1).getAttribute("aria-label"));
    await kernels.getByText("All kernels as a table").click();
    expect(await kernels.getByRole("row").count()).toBe((await segments.count()) + 1);
  });

  test("says when the device is lost, and loads the model again without asking the server for it", async () => {
    await desk.set({ ...greedy, Length: 1000 });
    await desk.prompt.fill("The whale");
    await desk.page.keyboard.press("Control+Enter");
    await desk.status.filter({ hasText: "Writing" }).waitFor();
    const before = server.log.length;
    await desk.page.workers()[0]!.evaluate("devices.at(-1).destroy()");
    await desk.problem.getByText("The graphics processor was lost").waitFor();
    expect(await desk.problem.innerText()).not.toContain("mistake of Culm's");
    await desk.problem.getByRole("button", { name: "Load the model" }).click();
    await desk.status.filter({ hasText: /^Ready|wrong/ }).waitFor();
    expect(await desk.problem.allInnerTexts()).toEqual([]);
    expect(await desk.region("Model and device").innerText()).toContain("all of it from this browser's cache");
    expect(server.log.slice(before).map(({ path }) => path)).toEqual(["/model/model.json"]);
    await desk.set({ Length: 5 });
    const { prompt, text } = generations[0]!;
    const written = await desk.write(prompt);
    expect(written.length).toBeGreaterThan(5);
    expect(text.startsWith(prompt + written)).toBe(true);
  });

  test("asks nobody but the server that it came from", () => {
    expect(desk.requests.length).toBeGreaterThan(5);
    expect(desk.requests.filter((url) => new URL(url).origin !== server.origin)).toEqual([]);
  });

  test("keeps prompt and settings for the next visit", async () => {
    await desk.set({ Length: 33 });
    await desk.prompt.fill("My dear Watson");
    await desk.page.reload();
    expect(await desk.prompt.inputValue()).toBe("My dear Watson");
    expect(await desk.page.getByRole("textbox", { name: "Length", exact: true }).inputValue()).toBe("33");
  });
});

/** Put before the worker's script: makes the devices that it opens reachable. */
const watchDevices = `
  globalThis.devices = [];
  const { requestDevice } = GPUAdapter.prototype;
  GPUAdapter.prototype.requestDevice = async function (...args) {
    const device = await requestDevice.apply(this, args);
    devices.push(device);
    return device;
  };`;

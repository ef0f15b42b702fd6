import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Browser } from "playwright-core";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import type { WebBundle } from "../../runtime/web/bundle.ts";
import { chromiumAvailable, launchChromium } from "../support/browser.ts";
import type { Site } from "../support/site.ts";
import { buildSite } from "../support/site.ts";
import type { StaticServer } from "../support/static-server.ts";
import { replacing, serveFolders } from "../support/static-server.ts";
import { openDesk } from "./desk.ts";

const folder = mkdtempSync(join(tmpdir(), "culm-web-bad-"));

describe.skipIf(!chromiumAvailable)("what a page says when something is wrong", { timeout: 120_000 }, () => {
  let site: Site;
  let server: StaticServer;
  let browser: Browser;
  beforeAll(async () => {
    site = buildSite(folder);
    server = await serveFolders({ "/": folder });
    browser = await launchChromium();
  }, 300_000);
  afterEach(() => {
    server.fault = () => false;
  });
  afterAll(async () => {
    await browser.close();
    await server.close();
    rmSync(folder, { recursive: true, force: true });
  });

  const read = (path: string): Buffer => readFileSync(join(folder, "model", path));
  /** Sends another model.json, and other bytes for some of the model's files. */
  const send = (bundle: WebBundle | object, files: Readonly<Record<string, Buffer | string>> = {}): void => {
    const bodies = { "model.json": JSON.stringify(bundle), ...files };
    server.fault = replacing(Object.fromEntries(Object.entries(bodies).map(([path, body]) => [`/model/${path}`, body])));
  };

  /** Opens the page and waits for what it complains of. @returns all of the complaint */
  async function complaint(on: Browser = browser): Promise<string> {
    const desk = await openDesk(on, `${server.origin}/`);
    await desk.problem.waitFor();
    const text = await desk.problem.innerText();
    expect(await desk.status.innerText()).toBe("Something went wrong");
    expect(text).not.toContain("mistake of Culm's");
    await desk.page.context().close();
    return text;
  }

  test("a browser without WebGPU: what to do in this one and in others", async () => {
    const context = await browser.newContext();
    await context.addInitScript("delete Navigator.prototype.gpu");
    const page = await context.newPage();
    await page.goto(`${server.origin}/`);
    await page.getByRole("heading", { name: "This page needs WebGPU" }).waitFor();
    expect(await page.getByRole("term").allInnerTexts()).toEqual(["Chrome and Edge", "Firefox", "Safari"]);
    await context.close();
  });

  test("no adapter", async () => {
    const without = await launchChromium({ webgpu: false });
    const text = await complaint(without);
    expect(text).toContain("no adapter");
    expect(text).toContain("chrome://gpu");
    await without.close();
  });

  test("a feature that the adapter lacks, before anything else is loaded", async () => {
    const { variants, ...rest } = site.bundle;
    const asking = variants.map((variant) => ({ ...variant, requires: { ...variant.requires, features: ["shader-f16"] } }));
    send({ ...rest, variants: asking });
    const before = server.log.length;
    expect(await complaint()).toMatch(/can run no variant of this model.*shader-f16/s);
    const loaded = server.log.slice(before).map(({ path }) => path);
    expect(loaded.filter((path) => path.startsWith("/model/"))).toEqual(["/model/model.json"]);
  });

  test("a limit that is too small, with the numbers", async () => {
    const { variants, ...rest } = site.bundle;
    const limits = { maxStorageBufferBindingSize: 2 ** 40 };
    const asking = variants.map((variant) => ({ ...variant, requires: { ...variant.requires, limits } }));
    send({ ...rest, variants: asking });
    const text = await complaint();
    expect(text).toContain("maxStorageBufferBindingSize");
    expect(text).toMatch(/1.?099.?511.?627.?776|1 TiB/);
    expect(text).toMatch(/1.?073.?741.?824|1 GiB/);
  });

  test("a model that another version made", async () => {
    send({ ...site.bundle, version: 99 });
    expect(await complaint()).toMatch(/version.*99|99.*version/s);
  });

  test("kernels that another version made", async () => {
    const { files, variants, ...rest } = site.bundle;
    const path = `${variants[0]!.folder}/manifest.json`;
    const manifest = JSON.stringify({ ...(JSON.parse(read(path).toString()) as object), version: 99 });
    const blocks = [createHash("sha256").update(manifest).digest("hex")];
    const entry = { path, bytes: Buffer.byteLength(manifest), blocks };
    send({ ...rest, variants, files: files.map((file) => (file.path === path ? entry : file)) }, { [path]: manifest });
    expect(await complaint()).toMatch(/manifest\.json.*version.*99/s);
  });

  test("weights that are cut short", async () => {
    const path = site.bundle.weights[0]!;
    send(site.bundle, { [path]: read(path).subarray(0, -1000) });
    expect(await complaint()).toMatch(/safetensors.*truncated/s);
  });

  test("weights that were changed", async () => {
    const path = site.bundle.weights[0]!;
    const changed = read(path);
    changed[1000]! ^= 1;
    send(site.bundle, { [path]: changed });
    expect(await complaint()).toMatch(/safetensors.*are not those that model\.json describes/s);
  });

  test("a model that is not there", async () => {
    server.fault = (path, _, response) => {
      if (!path.startsWith("/model/")) return false;
      response.writeHead(404).end();
      return true;
    };
    expect(await complaint()).toMatch(/model\.json: the server answers 404/);
  });

  test("a server without ranges: all of a file is loaded at once, and the page says so", async () => {
    const answer = replacing({ "/model/model.json": JSON.stringify(site.bundle) });
    server.fault = (path, request, response) => {
      delete request.headers.range;
      return answer(path, request, response);
    };
    const desk = await openDesk(browser, `${server.origin}/`);
    await desk.region("Model and device").getByText("the server has no byte ranges: weights/model.safetensors").waitFor();
    expect(await desk.problem.count()).toBe(0);
    await desk.page.context().close();
  });
});

import type { Browser, BrowserContextOptions, Page } from "playwright-core";
import { chromium } from "playwright-core";
import { chromiumPath, skipsEngines } from "../../scripts/engines.mjs";

/** False only where CULM_SKIP_GPU_TESTS=1 says so: `describe.skipIf(!chromiumAvailable)`. Where Chromium is just missing, its tests fail. */
export const chromiumAvailable = !skipsEngines;

/**
 * A headless Chromium whose WebGPU is SwiftShader, on the CPU: subgroups of 4 lanes, no shader-f16. With `webgpu: false` it has `navigator.gpu` and no
 * adapter, like a machine whose graphics driver is not good enough.
 * @throws SetupError when there is no Chromium, with what to do
 */
export async function launchChromium({ webgpu = true }: { readonly webgpu?: boolean } = {}): Promise<Browser> {
  const { VK_ICD_FILENAMES: _, ...env } = process.env; // lavapipe's, where this process tests on that too
  return chromium.launch({
    executablePath: chromiumPath(),
    headless: true,
    env: Object.fromEntries(Object.entries(env).flatMap(([name, value]) => (value === undefined ? [] : [[name, value]]))),
    // With the first the GPU process does not start; the second is for WebGL, and would offer a software adapter in any case.
    ignoreDefaultArgs: ["--disable-gpu", "--enable-unsafe-swiftshader"],
    args: [
      "--no-sandbox", // the tests may run as root
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      ...(webgpu ? ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"] : ["--disable-gpu", "--disable-software-rasterizer"]),
    ],
  });
}

/** A page, with all that it asked for and all that went wrong in it. */
export interface Watched {
  readonly page: Page;
  /** URL of every request, those of workers included. */
  readonly requests: readonly string[];
  /** Exceptions that nobody caught, and what was written with console.error. */
  readonly errors: readonly string[];
}

/** A page of its own: nothing in the cache, nothing stored. */
export async function openPage(browser: Browser, options: BrowserContextOptions = {}): Promise<Watched> {
  const context = await browser.newContext(options);
  const requests: string[] = [];
  const errors: string[] = [];
  context.on("request", (request) => requests.push(request.url()));
  context.on("weberror", (error) => errors.push(error.error().message));
  context.on("console", (message) => {
    if (message.type() === "error") errors.push(message.text());
  });
  return { page: await context.newPage(), requests, errors };
}

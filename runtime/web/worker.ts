import * as z from "zod";
import { webgpu } from "../drivers/webgpu/device.ts";
import { UserError } from "../errors.ts";
import { browserPlatform } from "./platform.ts";
import type { Port } from "./serve.ts";
import { serveModel } from "./serve.ts";

/** The worker that runs a page's model: `new Worker(new URL("culm/runtime/web/worker", import.meta.url), { type: "module" })`, spoken to through client.ts. */

// A page may forbid code that is made from text, and this library would try.
z.config({ jitless: true });

const { navigator } = globalThis as { readonly navigator?: { readonly gpu?: GPU } };

serveModel(globalThis as unknown as Port, {
  platform: browserPlatform(),
  driver() {
    const gpu = navigator?.gpu;
    if (gpu === undefined)
      throw new UserError("this browser has no WebGPU", {
        hint: "use Chrome or Edge 113 or later, Safari 26 or later, or Firefox 141 or later on Windows; a page has it over https and on localhost only",
      });
    return webgpu(gpu);
  },
});

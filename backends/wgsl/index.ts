import type { Backend } from "../../compiler/backend.ts";
import { caps } from "./caps.ts";
import { legalize } from "./legalize.ts";
import { print } from "./print.ts";
import { toolchain } from "./toolchain.ts";

export { capsFor } from "./caps.ts";
export type { AdapterFacts } from "./caps.ts";

/** WGSL for WebGPU, in Node and in browsers. */
export const wgslBackend: Backend = { name: "wgsl", caps, legalize, print, toolchain };

import type { Backend } from "../../compiler/backend.ts";
import { caps } from "./caps.ts";
import { legalize } from "./legalize.ts";
import { print } from "./print.ts";
import { toolchain } from "./toolchain.ts";

export { capsFor } from "./caps.ts";

/** CUDA C++ for NVIDIA GPUs of compute capability 8.0 and up, compiled by NVRTC. */
export const cudaBackend: Backend = { name: "cuda", caps, legalize, print, toolchain };

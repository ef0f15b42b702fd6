import type { Backend } from "../../compiler/backend.ts";
import { caps } from "./caps.ts";
import { print } from "./print.ts";
import { toolchain } from "./toolchain.ts";

/** Native code for CPUs through libLLVM. */
export const llvmBackend: Backend = { name: "llvm", caps, print, toolchain };

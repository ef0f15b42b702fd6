import type { Backend } from "../../compiler/backend.ts";
import { caps } from "./caps.ts";
import { legalize } from "./legalize.ts";
import { print } from "./print.ts";
import { toolchain } from "./toolchain.ts";

/** The Metal Shading Language for Apple's GPUs from the M1 on. */
export const metalBackend = { name: "metal", caps, legalize, print, toolchain } satisfies Backend;

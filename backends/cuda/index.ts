import type { Backend } from "../../compiler/backend.ts";
import { caps } from "./caps.ts";
import { legalize } from "./legalize.ts";
import { print } from "./print.ts";

export const cudaBackend: Backend = { name: "cuda", caps, legalize, print, toolchain: null };

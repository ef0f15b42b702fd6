import type { ThreadProgram } from "../../compiler/ir/thread.ts";
import type { Level } from "./caps.ts";
import type { Frame } from "./frame.ts";
import type { FunctionText, ModuleText } from "./module-text.ts";
import type { Values } from "./values.ts";

/** What printing statements needs. */
export interface Printer {
  readonly program: ThreadProgram;
  readonly level: Level;
  readonly module: ModuleText;
  readonly f: FunctionText;
  readonly values: Values;
  readonly frame: Frame;
}

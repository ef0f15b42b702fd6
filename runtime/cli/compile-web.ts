import { definedOnly } from "../defined.ts";
import { UserError } from "../errors.ts";
import { formatBytes } from "../format.ts";
import { loadOptions } from "./options.ts";
import type { ModelFlags } from "./options.ts";
import { Progress } from "./terminal.ts";
import type { Terminal } from "./terminal.ts";

export interface WebFlags extends ModelFlags {
  readonly model: string;
  readonly out: string;
  readonly batch?: number;
  readonly variants?: readonly string[];
}

/** `culm compile --web`. */
export async function compileWeb(flags: WebFlags, terminal: Terminal): Promise<undefined> {
  if ((flags.batch ?? 1) > 1) throw new UserError("a page runs one prompt at a time", { hint: "leave out --batch" });
  if (flags.target !== undefined || (flags.backend !== undefined && flags.backend !== "webgpu"))
    throw new UserError("a page runs WebGPU, in several variants", {
      hint: "name them with --variants base,large-sg32, without --target and --backend",
    });
  const { writeWebBundle } = await import("../../models/auto/web.ts");
  const interactive = terminal.interactive && flags.json !== true;
  const { options, stop } = loadOptions(flags, terminal);
  const saving = new Progress(interactive, "writing weights", formatBytes);
  let compiling: Progress | undefined;
  try {
    const facts = await writeWebBundle(flags.model, flags.out, {
      ...options,
      ...definedOnly({ variants: flags.variants }),
      signal: terminal.signal,
      // A bar for each variant.
      onVariant: (caps, index, count) => {
        compiling?.stop();
        compiling = new Progress(interactive, `compiling ${caps} (${index + 1} of ${count})`);
      },
      onCompile: ({ done, total }) => {
        terminal.signal.throwIfAborted();
        compiling?.update(done, total);
      },
      onSave: (bytes, total) => {
        terminal.signal.throwIfAborted();
        compiling?.stop();
        saving.update(bytes, total);
      },
    });
    if (flags.json === true) terminal.out(`${JSON.stringify({ out: flags.out, ...facts }, null, 2)}\n`);
    else {
      for (const { caps, kernels, bytes, cached } of facts.variants)
        terminal.err(`${caps}: ${kernels} kernels, ${formatBytes(bytes)}${cached ? ", from the cache" : ""}\n`);
      terminal.err(`${flags.out}: ${facts.name}, ${formatBytes(facts.bytes)} in all\n`);
    }
  } finally {
    stop();
    compiling?.stop();
    saving.stop();
  }
}

import type { Command } from "commander";
import type { Manifest } from "../../compiler/artifact.ts";
import { UserError } from "../errors.ts";
import type { Run } from "./generate.ts";
import { describeArtifact } from "./inspect-report.ts";
import { addModelFlags, loadOptions, modelDescription, wholeNumber } from "./options.ts";
import type { ModelFlags } from "./options.ts";
import type { Terminal } from "./terminal.ts";

interface Flags extends ModelFlags {
  readonly model?: string;
  readonly artifact?: string;
  readonly batch?: number;
}

const examples = `
Examples:
  $ culm inspect --model models/bamba-tiny
  $ culm inspect --artifact model.culm
  $ culm inspect --model DIR --json | jq '.programs[] | {name, launches}'

Shows the plan of each program (its kernels in order, with the operation of the model that each one stores), the memory
that a session takes, the kernels with their templates and configurations, and what is stored in which precision.`;

export function defineInspect(program: Command, terminal: Terminal, run: Run): Command {
  const command = program
    .command("inspect")
    .description("show what a model becomes: programs, kernels, memory, precision")
    .option("--model <model>", `${modelDescription}; it is compiled if it was not before`)
    .option("--artifact <dir>", "folder that `culm compile` wrote")
    .option("--batch <n>", "most prompts at once (default: 1)", wholeNumber);
  addModelFlags(command, { replay: true });
  return command
    .option("--json", "print everything as one JSON object")
    .addHelpText("after", examples)
    .action((flags: Flags) => run(() => inspect(flags, terminal)));
}

async function inspect(flags: Flags, terminal: Terminal): Promise<undefined> {
  const { name, manifest, kernelBytes } = await load(flags, terminal);
  const report = describeArtifact(name, manifest, kernelBytes);
  if (flags.json === true) {
    terminal.out(`${JSON.stringify(report, null, 2)}\n`);
    return;
  }
  const { printReport } = await import("./inspect-text.ts");
  terminal.out(printReport(report));
}

async function load(flags: Flags, terminal: Terminal): Promise<{ name: string; manifest: Manifest; kernelBytes: number }> {
  if ((flags.model === undefined) === (flags.artifact === undefined))
    throw new UserError("expected one of --model and --artifact", { hint: "culm inspect --help has examples" });
  if (flags.artifact !== undefined) {
    const { readArtifact } = await import("../node/artifact.ts");
    const { manifest, kernels } = await readArtifact(flags.artifact);
    return { name: manifest.name, manifest, kernelBytes: kernels.length };
  }
  const folder = flags.model!;
  if (flags.backend === "interpret") throw new UserError("the interpreter compiles nothing to inspect", { hint: "leave out --backend" });
  const { compileFolder, modelName } = await import("../../models/auto/inspect.ts");
  const { options, stop } = loadOptions(flags, terminal, flags.batch);
  const { artifact } = await compileFolder(folder, options).finally(stop);
  return { name: modelName(folder), manifest: artifact.manifest, kernelBytes: artifact.kernels.length };
}

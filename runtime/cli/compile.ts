import type { Command } from "commander";
import { UserError } from "../errors.ts";
import type { Run } from "./generate.ts";
import { addModelFlags, loadOptions, modelDescription, nameList, wholeNumber } from "./options.ts";
import type { WebFlags } from "./compile-web.ts";
import { formatBytes, formatTime } from "./terminal.ts";
import type { Terminal } from "./terminal.ts";

interface Flags extends WebFlags {
  readonly web?: boolean;
}

const examples = `
Examples:
  $ culm compile --model DIR --out model.culm
  $ culm compile --model DIR --out model.culm --batch 4 --max-length 8192
  $ culm compile --model DIR --out model.culm --target llvm:x86-64-avx2   for another machine than this one
  $ culm compile --model DIR --out model.culm --target cuda:sm_90a        for NVIDIA's Hopper GPUs (needs NVRTC, no GPU)
  $ culm compile --model DIR --out model.culm --target wgsl               for every GPU with WebGPU, in Node or a browser
  $ culm compile --model DIR --out model.culm --target wgsl:large-sg32    for GPUs with subgroups of 32 lanes
  $ culm compile --model DIR --out model.culm --target metal:m4           for Apple's GPUs, in an app: sources, a host in Swift, and verify-on-mac.sh
  $ culm compile --model DIR --web --out site/model                       for a page: a folder that any static server serves

The artifact is a folder: manifest.json (programs, kernels, memory), kernels.bin and literals.bin. The weights stay in
their checkpoint and are packed when they are loaded. \`culm inspect --artifact model.culm\` shows what is in it.`;

export function defineCompile(program: Command, terminal: Terminal, run: Run): Command {
  const command = program
    .command("compile")
    .description("compile a model to a folder of kernels")
    .requiredOption("--model <model>", modelDescription)
    .requiredOption("--out <dir>", "folder to write, by custom called something.culm")
    .option("--batch <n>", "most prompts at once (default: 1)", wholeNumber)
    .option("--web", "for a page: WebGPU kernels in several variants, weights and tokenizer, in a folder that any static server serves")
    .option("--variants <names>", "with --web: targets of wgsl, best first (default: large-sg32,large,base)", nameList);
  addModelFlags(command);
  return command
    .option("--json", "print one JSON object about the result")
    .addHelpText("after", examples)
    .action((flags: Flags) => run(() => compile(flags, terminal)));
}

async function compile(flags: Flags, terminal: Terminal): Promise<undefined> {
  if (flags.web === true) return (await import("./compile-web.ts")).compileWeb(flags, terminal);
  if (flags.variants !== undefined) throw new UserError("--variants goes with --web");
  if (flags.backend === "interpret")
    throw new UserError("the interpreter compiles nothing", { hint: "leave out --backend, or give --backend llvm" });
  const [{ compileFolder, modelName }, { writeArtifact }] = await Promise.all([
    import("../../models/auto/inspect.ts"),
    import("../node/artifact.ts"),
  ]);
  const { options, stop } = loadOptions(flags, terminal, flags.batch);
  const { artifact, cached, time } = await compileFolder(flags.model, options).finally(stop);
  await writeArtifact(flags.out, { ...artifact, manifest: { ...artifact.manifest, name: modelName(flags.model) } });
  const { manifest, kernels, literals } = artifact;
  const bytes = kernels.length + literals.length;
  const facts = { out: flags.out, kernels: manifest.kernels.length, programs: manifest.programs.map(({ name }) => name), bytes, cached };
  if (flags.json === true) terminal.out(`${JSON.stringify({ ...facts, milliseconds: Math.round(time) }, null, 2)}\n`);
  else
    terminal.err(
      `${flags.out}: ${facts.kernels} kernels for ${manifest.target.caps}, programs ${facts.programs.join(", ")}, ${formatBytes(bytes)}, ${cached ? "from the cache" : "compiled"} in ${formatTime(time)}\n`,
    );
}

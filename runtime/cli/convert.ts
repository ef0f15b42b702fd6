import type { Command } from "commander";
import type { Run } from "./generate.ts";
import { addHubFlags, hubOptions, modelDescription, oneOf } from "./options.ts";
import type { HubFlags } from "./options.ts";
import { formatBytes, formatCount, formatTime, Progress } from "./terminal.ts";
import type { Terminal } from "./terminal.ts";

interface Flags extends HubFlags {
  readonly model: string;
  readonly out: string;
  readonly dtype: "auto" | "f32" | "bf16" | "f16";
  readonly maxShardSize: string;
  readonly tokenizer: boolean;
  readonly json?: boolean;
}

const examples = `
Examples:
  $ culm convert --model DIR --out bamba-bf16 --dtype bf16
  $ culm convert --model DIR --out sharded --max-shard-size 5GB
  $ culm convert --model mamba-ssm-checkpoint --out bamba        from the files of the original training code

Reads a checkpoint (of Transformers, or of mamba_ssm in safetensors) and writes it as Transformers saves models: config.json,
generation_config.json, model.safetensors or numbered shards with their index, and the tokenizer's files. Memory stays
small whatever the size of the model.`;

export function defineConvert(program: Command, terminal: Terminal, run: Run): Command {
  const command = program
    .command("convert")
    .description("write a model anew: another dtype, other shards, or from an original mamba_ssm checkpoint")
    .requiredOption("--model <model>", modelDescription)
    .requiredOption("--out <dir>", "folder to write")
    .option(
      "--dtype <type>",
      "what weights are cast to: auto (as the checkpoint says), f32, bf16 or f16",
      oneOf("auto", "f32", "bf16", "f16"),
      "auto",
    )
    .option("--max-shard-size <size>", "size of a file at most, in bytes or as 500MB or 5GB", "50GB")
    .option("--no-tokenizer", "leave the tokenizer's files out")
    .option("--json", "print one JSON object about the result");
  return addHubFlags(command)
    .addHelpText("after", examples)
    .action((flags: Flags) => run(() => convert(flags, terminal)));
}

async function convert(flags: Flags, terminal: Terminal): Promise<undefined> {
  const { model, out, dtype, maxShardSize, tokenizer, json } = flags;
  const [{ resolveModel }, { openModelSource }, { saveModel }] = await Promise.all([
    import("../hub/resolve.ts"),
    import("../../models/auto/source.ts"),
    import("../../models/auto/save.ts"),
  ]);
  const started = performance.now();
  const progress = new Progress(terminal.interactive && json !== true, "writing weights", formatBytes);
  const hub = hubOptions(flags, terminal, terminal.interactive && json !== true);
  const source = openModelSource(await resolveModel(model, hub.options).finally(hub.stop));
  try {
    const saved = await saveModel(source, out, dtype === "auto" ? source.dtype : dtype, {
      maxShardSize,
      includeTokenizer: tokenizer,
      onSave: (bytes, total) => {
        terminal.signal.throwIfAborted();
        progress.update(bytes, total);
      },
    }).finally(() => progress.stop());
    const { warnings } = source.config;
    const took = performance.now() - started;
    if (json === true) {
      terminal.out(
        `${JSON.stringify({ folder: out, from: source.format, ...saved, warnings, milliseconds: Math.round(took) }, null, 2)}\n`,
      );
      return;
    }
    for (const warning of warnings) terminal.err(`warning: ${warning}\n`);
    const weights = saved.files.filter((file) => file.endsWith(".safetensors")).length;
    terminal.err(
      `${out}: ${formatCount(saved.parameters)} parameters, ${formatBytes(saved.bytes)} of ${saved.dtype} in ${weights} ${weights === 1 ? "file" : "files"}, written in ${formatTime(took)}\n`,
    );
  } finally {
    source.checkpoint.close();
  }
}

import type { Command } from "commander";
import type { Values } from "../../models/auto/cache.ts";
import type { TensorToWrite } from "../node/write-safetensors.ts";
import type { Run } from "./generate.ts";
import { addModelFlags, loadOptions, modelDescription, stopped, wholeNumber } from "./options.ts";
import type { ModelFlags } from "./options.ts";
import type { Terminal } from "./terminal.ts";

interface Flags extends ModelFlags {
  readonly model: string;
  readonly inputs: string;
  readonly output: string;
  readonly hiddenStates?: boolean;
  readonly attentions?: boolean;
  readonly logitsToKeep?: number;
}

const examples = `
Examples:
  $ culm forward --model DIR --inputs in.safetensors --output out.safetensors
  $ culm forward --model DIR --inputs in.safetensors --output out.safetensors --hidden-states --dtype f32
  $ culm forward --model DIR --inputs in.safetensors --output ref.safetensors --backend interpret

The inputs are tensors of a safetensors file, I64 or I32, each [rows, length]:
  input_ids        token ids; or inputs_embeds [rows, length, hidden] in a float type
  attention_mask   optional: 1 for a token, 0 for padding
  position_ids     optional
  seq_idx          optional: which packed sequence a token belongs to
  labels           optional: -100 does not count; the result then has the loss
The result has logits [rows, length, vocabulary] in F32, and with --hidden-states hidden_states.0 (the embeddings),
hidden_states.1, ... and as the last one the output of the final norm; with --attentions attentions.0, ...
[rows, heads, length, length], one for each attention layer.`;

export function defineForward(program: Command, terminal: Terminal, run: Run): Command {
  const command = program
    .command("forward")
    .description("compute the logits of every position")
    .requiredOption("--model <model>", modelDescription)
    .requiredOption("--inputs <file>", "safetensors file with the inputs")
    .requiredOption("--output <file>", "safetensors file to write")
    .option("--hidden-states", "write the hidden states of every layer too")
    .option("--attentions", "write the weights of every attention layer too")
    .option("--logits-to-keep <n>", "logits of the last n positions only (default: of all)", wholeNumber);
  addModelFlags(command);
  return command
    .option("--json", "print one JSON object about the result")
    .addHelpText("after", examples)
    .action((flags: Flags) => run(() => forward(flags, terminal)));
}

async function forward(flags: Flags, terminal: Terminal): Promise<undefined> {
  const [{ openCausalLM }, { readForwardInputs }, { writeSafetensors }] = await Promise.all([
    import("../../models/auto/model.ts"),
    import("./forward-inputs.ts"),
    import("../node/write-safetensors.ts"),
  ]);
  const { options, stop } = loadOptions(flags, terminal);
  const model = await openCausalLM(flags.model, options).catch(stopped(stop));
  try {
    const inputs = readForwardInputs(flags.inputs, model.config);
    const asked = { outputHiddenStates: flags.hiddenStates ?? false, outputAttentions: flags.attentions ?? false, useCache: false };
    const result = await model.forward({ ...inputs, ...asked, logitsToKeep: flags.logitsToKeep ?? 0 }).finally(stop);
    const { logits, loss } = result;
    const [hiddenStates, attentions] = [result.hiddenStates ?? [], result.attentions ?? []];
    writeSafetensors(
      flags.output,
      [
        tensor("logits", logits),
        ...(loss === null ? [] : [tensor("loss", { shape: [], data: Float32Array.of(loss) })]),
        ...hiddenStates.map((values, i) => tensor(`hidden_states.${i}`, values)),
        ...attentions.map((values, i) => tensor(`attentions.${i}`, values)),
      ],
      { format: "pt" },
    );
    const [rows, kept, vocabSize] = logits.shape as [number, number, number];
    const report = {
      output: flags.output,
      rows,
      positions: kept,
      vocabSize,
      hiddenStates: hiddenStates.length,
      attentions: attentions.length,
      loss,
    };
    if (flags.json === true) terminal.out(`${JSON.stringify(report, null, 2)}\n`);
    else terminal.err(`${flags.output}: logits [${rows}, ${kept}, ${vocabSize}]${loss === null ? "" : `, loss ${loss}`}\n`);
  } finally {
    await model.close();
  }
}

function tensor(name: string, { shape, data }: Values): TensorToWrite {
  return { name, dtype: "F32", shape, data: new Uint8Array(data.buffer, data.byteOffset, data.byteLength) };
}

import type { Command } from "commander";
import type { Run } from "./generate.ts";
import { addModelFlags, loadOptions, modelDescription } from "./options.ts";
import type { ModelFlags } from "./options.ts";
import type { Terminal } from "./terminal.ts";

interface Flags extends ModelFlags {
  readonly model: string;
  readonly inputs: string;
  readonly output: string;
  readonly hiddenStates?: boolean;
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
  labels           optional: -100 does not count; the result then has the loss
The result has logits [rows, length, vocabulary] in F32, and with --hidden-states hidden_states.0 (the embeddings),
hidden_states.1, ... and as the last one the output of the final norm.`;

export function defineForward(program: Command, terminal: Terminal, run: Run): Command {
  const command = program
    .command("forward")
    .description("compute the logits of every position")
    .requiredOption("--model <model>", modelDescription)
    .requiredOption("--inputs <file>", "safetensors file with the inputs")
    .requiredOption("--output <file>", "safetensors file to write")
    .option("--hidden-states", "write the hidden states of every layer too");
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
  const model = await openCausalLM(flags.model, options).catch((error: unknown) => {
    stop();
    throw error;
  });
  try {
    const inputs = readForwardInputs(flags.inputs, model.config);
    const result = await model.forward({ ...inputs, hiddenStates: flags.hiddenStates ?? false }).finally(stop);
    const { rows, length, vocabSize, logits, hiddenStates, loss } = result;
    const bytes = (values: Float32Array): Uint8Array => new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    writeSafetensors(
      flags.output,
      [
        { name: "logits", dtype: "F32", shape: [rows, length, vocabSize], data: bytes(logits) },
        ...(loss === null ? [] : [{ name: "loss", dtype: "F32" as const, shape: [], data: bytes(Float32Array.of(loss)) }]),
        ...hiddenStates.map((data, i) => ({
          name: `hidden_states.${i}`,
          dtype: "F32" as const,
          shape: [rows, length, model.config.hiddenSize],
          data: bytes(data),
        })),
      ],
      { format: "pt" },
    );
    if (flags.json === true)
      terminal.out(
        `${JSON.stringify({ output: flags.output, rows, length, vocabSize, hiddenStates: hiddenStates.length, loss }, null, 2)}\n`,
      );
    else terminal.err(`${flags.output}: logits [${rows}, ${length}, ${vocabSize}]${loss === null ? "" : `, loss ${loss}`}\n`);
  } finally {
    await model.close();
  }
}

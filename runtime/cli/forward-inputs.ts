import type { CausalLMInputs } from "../../models/auto/forward-pass.ts";
import type { BambaConfig } from "../../models/bamba/config.ts";
import { UserError } from "../errors.ts";
import { openCheckpoint } from "../node/checkpoint.ts";
import type { Checkpoint } from "../node/checkpoint.ts";
import { decodeFloats, decodeIntegers, isFloatDType, tokenRange } from "../numeric.ts";
import type { IntegerRange } from "../numeric.ts";

const known = ["input_ids", "inputs_embeds", "attention_mask", "position_ids", "seq_idx", "labels"];

/** Reads the inputs of `culm forward`. @throws UserError naming the file and the tensor. */
export function readForwardInputs(file: string, config: BambaConfig): CausalLMInputs {
  const inputs = openCheckpoint(file);
  try {
    const other = [...inputs.tensors.keys()].filter((name) => !known.includes(name));
    if (other.length > 0) throw new UserError(`${file}: unknown input ${other[0]!}`, { hint: `the inputs are ${known.join(", ")}` });
    const { vocabSize, maxPositionEmbeddings } = config;
    const inputIds = rowsOf(inputs, "input_ids", tokenRange(vocabSize));
    const inputsEmbeds = embedsOf(inputs, config.hiddenSize);
    if ((inputIds === undefined) === (inputsEmbeds === undefined))
      throw new UserError(`${file}: expected exactly one of input_ids and inputs_embeds`);
    const [rows, length] = inputIds === undefined ? (inputsEmbeds!.shape as [number, number]) : [inputIds.length, inputIds[0]!.length];
    const same = (name: string, range: IntegerRange): readonly Int32Array[] | undefined => {
      const values = rowsOf(inputs, name, range);
      if (values !== undefined && (values.length !== rows || values[0]!.length !== length))
        throw new UserError(`${file}: ${name} is [${values.length}, ${values[0]!.length}], the tokens are [${rows}, ${length}]`);
      return values;
    };
    const attentionMask = same("attention_mask", { min: 0, max: 1 });
    const positionIds = same("position_ids", { min: 0, max: maxPositionEmbeddings - 1 });
    const seqIdx = same("seq_idx", { min: -(2 ** 31), max: 2 ** 31 - 1 });
    const labels = same("labels", { min: -100, max: vocabSize - 1 });
    return {
      ...(inputIds === undefined ? {} : { inputIds }),
      ...(inputsEmbeds === undefined ? {} : { inputsEmbeds }),
      ...(attentionMask === undefined ? {} : { attentionMask }),
      ...(positionIds === undefined ? {} : { positionIds }),
      ...(seqIdx === undefined ? {} : { seqIdx }),
      ...(labels === undefined ? {} : { labels }),
    };
  } finally {
    inputs.close();
  }
}

/** A tensor of integers as rows; a list without a batch is one row. */
function rowsOf(inputs: Checkpoint, name: string, range: IntegerRange): readonly Int32Array[] | undefined {
  const tensor = inputs.tensors.get(name);
  if (tensor === undefined) return undefined;
  const { dtype, shape } = tensor;
  if (dtype !== "I64" && dtype !== "I32") throw new UserError(`${inputs.path}: ${name} has dtype ${dtype}, expected I64 or I32`);
  const [rows, length] = shape.length === 1 ? [1, shape[0]!] : [shape[0] ?? 0, shape[1] ?? 0];
  if (shape.length > 2 || rows === 0 || length === 0)
    throw new UserError(`${inputs.path}: ${name} is [${shape.join(", ")}], expected [rows, length]`);
  const values = decodeIntegers(dtype, inputs.read(name), range, `${inputs.path}: ${name}`);
  return Array.from({ length: rows }, (_, row) => values.subarray(row * length, (row + 1) * length));
}

function embedsOf(inputs: Checkpoint, hidden: number): CausalLMInputs["inputsEmbeds"] {
  const tensor = inputs.tensors.get("inputs_embeds");
  if (tensor === undefined) return undefined;
  const { dtype, shape } = tensor;
  const [rows, length, width] = shape as readonly [number, number, number];
  if (!isFloatDType(dtype) || shape.length !== 3 || width !== hidden || rows * length === 0)
    throw new UserError(`${inputs.path}: inputs_embeds is ${dtype} [${shape.join(", ")}], expected floats [rows, length, ${hidden}]`);
  return { shape, data: decodeFloats(dtype, inputs.read("inputs_embeds")) };
}

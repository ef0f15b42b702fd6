import { UserError } from "../../../runtime/errors.ts";
import { hash32, hashString } from "../../../runtime/random.ts";
import { encodeFloats } from "../../../runtime/numeric.ts";
import { writeSafetensors } from "../../../runtime/node/write-safetensors.ts";
import type { BambaConfig } from "../../bamba/config.ts";
import type { BambaForCausalLM } from "../model.ts";
import { chooseSections } from "./compare.ts";
import type { Golden, GoldenTensor } from "./tensors.ts";

export interface FixtureOptions {
  readonly rows: number;
  /** Tokens of a row. */
  readonly length: number;
  /** What the tokens are drawn from. */
  readonly seed: number;
  /** Names of the sections to make; all unless given. */
  readonly sections?: readonly string[];
  /** Called as tensors are made, with the name of the last one. */
  readonly onTensor?: (name: string) => void;
}

/** So that a prompt, five single tokens and a chunk of at least two can be cut from a row. */
const shortest = 12;

/**
 * Makes the tensors of a golden file from a model: random tokens, and what follows from them.
 * @throws UserError for sizes that the sections cannot be made of, before anything is computed.
 */
export async function makeFixtures(model: BambaForCausalLM, options: FixtureOptions): Promise<ReadonlyMap<string, GoldenTensor>> {
  const { rows, length } = options;
  const chosen = chooseSections(options.sections);
  if (!Number.isInteger(rows) || rows < 1) throw new UserError(`rows (--rows): expected a whole number from 1, got ${rows}`);
  if (!Number.isInteger(length) || length < shortest)
    throw new UserError(`length (--length): expected a whole number from ${shortest}, got ${length}`, {
      hint: "a prompt, single tokens and a chunk are cut from each row",
    });
  const tensors = new Map<string, GoldenTensor>();
  const made: Golden = {
    get names() {
      return [...tensors.keys()];
    },
    get: (name) => tensors.get(name),
  };
  const needed = new Set(chosen.flatMap(({ name, needs }) => [...needs, ...(name === "forward" ? ["forward.masked_labels"] : [])]));
  for (const [name, tensor] of await inputsOf(model, options, needed)) tensors.set(name, tensor);
  for (const section of chosen)
    for await (const { name, shape, values } of section.compute({ model, golden: made, wants: () => true })) {
      tensors.set(name, { shape, values });
      options.onTensor?.(name);
    }
  return tensors;
}

/** Writes tensors as a golden file: floats as F32, integers as I64. The file appears when it is complete. */
export function writeGolden(path: string, tensors: ReadonlyMap<string, GoldenTensor>): void {
  const list = [...tensors].map(([name, { shape, values }]) =>
    values instanceof Float32Array
      ? { name, dtype: "F32" as const, shape, data: encodeFloats("F32", values) }
      : { name, dtype: "I64" as const, shape, data: new Uint8Array(BigInt64Array.from(values, BigInt).buffer) },
  );
  writeSafetensors(path, list, { format: "pt" });
}

/** The given tensors of the sections: tokens, the same padded in the first row, labels, and what a forward pass makes of the tokens. */
async function inputsOf(
  model: BambaForCausalLM,
  { rows, length, seed }: FixtureOptions,
  needed: ReadonlySet<string>,
): Promise<ReadonlyMap<string, GoldenTensor>> {
  const { config } = model;
  const ids = randomTokens(config, rows, length, seed);
  const padding = Math.floor(length * 0.3);
  const padded = (index: number): boolean => index < padding;
  const shape = [rows, length];
  const integers = (of: (index: number, column: number) => number): GoldenTensor => ({
    shape,
    values: Int32Array.from(ids, (_, index) => of(index, index % length)),
  });
  const given: Readonly<Record<string, () => GoldenTensor>> = {
    "forward.input_ids": () => ({ shape, values: ids }),
    "forward.masked_labels": () => integers((index, column) => (column < Math.floor(length / 4) ? -100 : ids[index]!)),
    "padded.input_ids": () => integers((index) => (padded(index) ? (config.padTokenId ?? 0) : ids[index]!)),
    "padded.attention_mask": () => integers((index) => (padded(index) ? 0 : 1)),
    "padded.position_ids": () => integers((index, column) => (index < length ? Math.max(0, column - padding) : column)),
    "sampling.history": () => ({ shape, values: ids }),
  };
  const out = new Map(Object.entries(given).flatMap(([name, make]) => (needed.has(name) ? [[name, make()] as const] : [])));
  if (!needed.has("embeds.inputs_embeds") && !needed.has("sampling.scores")) return out;
  const inputIds = Array.from({ length: rows }, (_, row) => ids.subarray(row * length, (row + 1) * length));
  const { hiddenStates, logits } = await model.forward({ inputIds, labels: inputIds, outputHiddenStates: true });
  if (needed.has("embeds.inputs_embeds"))
    out.set("embeds.inputs_embeds", { shape: hiddenStates![0]!.shape, values: hiddenStates![0]!.data });
  if (needed.has("sampling.scores")) {
    const { vocabSize } = config;
    const last = new Float32Array(rows * vocabSize);
    for (let row = 0; row < rows; row += 1)
      last.set(logits.data.subarray(((row + 1) * length - 1) * vocabSize, (row + 1) * length * vocabSize), row * vocabSize);
    out.set("sampling.scores", { shape: [rows, vocabSize], values: last });
  }
  return out;
}

/** Tokens other than those with a meaning of their own, as far as the vocabulary has others; a function of the seed and the place. */
function randomTokens({ vocabSize, ...special }: BambaConfig, rows: number, length: number, seed: number): Int32Array {
  const { padTokenId, bosTokenId, eosTokenIds } = special;
  const reserved = new Set([padTokenId, bosTokenId, ...eosTokenIds]);
  const plain = Array.from({ length: vocabSize }, (_, id) => id).filter((id) => !reserved.has(id));
  const choices = plain.length === 0 ? [0] : plain;
  const key = hashString(`golden tokens ${seed}`);
  return Int32Array.from({ length: rows * length }, (_, i) => choices[hash32(key ^ hash32(i)) % choices.length]!);
}

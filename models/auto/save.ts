import { existsSync, realpathSync, statSync } from "node:fs";
import { join } from "node:path";
import { shown, UserError } from "../../runtime/errors.ts";
import { indexFile, indexText, removeOtherWeights, shardTensors, stageFiles, writeShards } from "../../runtime/node/write-checkpoint.ts";
import type { Shard } from "../../runtime/node/write-checkpoint.ts";
import type { JsonObject } from "../bamba/json.ts";
import { bambaConfigJson, configText } from "../bamba/config-json.ts";
import { bambaTensors } from "../bamba/weights.ts";
import type { ModelSource, WeightDType } from "./source.ts";

export interface SaveOptions {
  /** Bytes of a file at most, as a number or with a unit of KB, MB, GB or TB (powers of 1000); "50GB" unless given. */
  readonly maxShardSize?: number | string;
  /** What the weights are cast to; unless given, the type in which the model was opened. */
  readonly dtype?: WeightDType;
  /** Whether the tokenizer's files are copied; true unless given. */
  readonly includeTokenizer?: boolean;
  /** Bytes of weights written so far, and in all. What it throws ends the saving, which then leaves the folder as it was. */
  readonly onSave?: (bytes: number, total: number) => void;
}

/** What a save has written. */
export interface Saved {
  /** File names in the folder. */
  readonly files: readonly string[];
  readonly parameters: number;
  /** Of weights. */
  readonly bytes: number;
  readonly dtype: WeightDType;
}

const storage = { f32: "F32", bf16: "BF16", f16: "F16" } as const;
const units: Readonly<Record<string, number>> = { KB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12 };

/** The files that a tokenizer of Transformers may consist of. */
const tokenizerFiles = [
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "merges.txt",
  "tokenizer.model",
  "chat_template.jinja",
  "chat_template.json",
];

/**
 * Writes a model as Transformers' save_pretrained does: config.json, generation_config.json, model.safetensors or numbered shards with their
 * index, and the tokenizer's files. Tensors are read, cast and written one after the other, so a model larger than memory is no trouble. Files
 * get their names when all of them are complete; weights of an earlier save in the folder are removed after that. The folder may be the
 * model's own. Source: spec bamba (a), (b), (g), e.8.
 * @param dtype what the weights are cast to unless the options say otherwise
 * @throws UserError for an option that makes no sense, before anything is written, and when the folder cannot be written.
 */
export async function saveModel(source: ModelSource, folder: string, dtype: WeightDType, options: SaveOptions = {}): Promise<Saved> {
  const limit = shardBytes(options.maxShardSize ?? "50GB");
  const target = options.dtype ?? dtype;
  if (!Object.hasOwn(storage, target)) throw new UserError(`dtype: expected f32, bf16 or f16, got ${shown(target)}`);
  if (existsSync(folder) && !statSync(folder).isDirectory()) throw new UserError(`${folder}: is a file, and a model is saved as a folder`);

  const tensors = bambaTensors(source.config)
    .map(({ name, shape }) => ({ name, shape, dtype: storage[target] }))
    .sort((a, b) => compareNames(a.name, b.name));
  const shards = shardTensors(tensors, limit);
  try {
    const files = await writeFiles(source, folder, target, shards, options);
    removeOtherWeights(folder, new Set(files));
    return { files, parameters: source.parameters, bytes: source.parameters * (target === "f32" ? 4 : 2), dtype: target };
  } catch (error) {
    // A full disk or a folder that may not be written is no bug.
    if (error instanceof Error && "syscall" in error)
      throw new UserError(`${folder}: cannot be written (${error.message})`, { cause: error });
    throw error;
  }
}

/** Part by part, numbers as numbers: the order of a model that Transformers has loaded, which decides what goes into which shard. */
function compareNames(a: string, b: string): number {
  const [left, right] = [a.split("."), b.split(".")];
  const at = left.findIndex((part, i) => part !== right[i]);
  if (at < 0) return left.length - right.length;
  const [x, y] = [left[at]!, right[at] ?? ""];
  const numbers = Number(x) - Number(y);
  return Number.isNaN(numbers) ? (x < y ? -1 : 1) : numbers;
}

/** Writes everything and gives the files their names. @returns the names. */
async function writeFiles(
  source: ModelSource,
  folder: string,
  dtype: WeightDType,
  shards: readonly Shard[],
  options: SaveOptions,
): Promise<readonly string[]> {
  const json = bambaConfigJson({ ...source.config, dtype }, source.json);
  const staged = stageFiles(folder);
  const files = shards.map(({ file }) => file);
  try {
    await writeShards(staged, shards, source.weights, options.onSave);
    const write = (name: string, text: string): void => {
      staged.write(name, text);
      files.push(name);
    };
    const copy = (name: string): void => {
      const from = join(source.folder, name);
      const to = join(folder, name);
      if (!existsSync(from) || (existsSync(to) && realpathSync(from) === realpathSync(to))) return;
      staged.copy(name, from);
      files.push(name);
    };
    if (shards.length > 1) write(indexFile, indexText(shards));
    write("config.json", configText(json));
    if (existsSync(join(source.folder, "generation_config.json"))) copy("generation_config.json");
    else write("generation_config.json", configText(generationJson(json)));
    if (options.includeTokenizer ?? true) tokenizerFiles.forEach(copy);
    staged.commit();
    return files;
  } catch (error) {
    staged.discard();
    throw error;
  }
}

/** What Transformers writes beside a model that has no generation settings of its own (spec bamba e.8). */
function generationJson(config: JsonObject): JsonObject {
  const names = ["bos_token_id", "eos_token_id", "pad_token_id", "use_cache"].filter((name) => config[name] !== null);
  return {
    _from_model_config: true,
    ...Object.fromEntries(names.map((name) => [name, config[name]])),
    output_attentions: false,
    output_hidden_states: false,
  };
}

/** "5GB" and 5e9 in bytes. @throws UserError for what is no size, or none above 0. */
function shardBytes(size: number | string): number {
  const wrong = (): UserError =>
    new UserError(`maxShardSize (--max-shard-size): expected bytes from 1, or a size like 5GB, got ${shown(size)}`, {
      hint: "units are KB, MB, GB and TB",
    });
  const [, digits, unit] = /^\s*(\d+(?:\.\d+)?)\s*([KMGT]B)?\s*$/i.exec(String(size)) ?? [];
  const bytes = Math.floor(Number(digits) * (unit === undefined ? 1 : units[unit.toUpperCase()]!));
  if (!(bytes >= 1 && bytes <= Number.MAX_SAFE_INTEGER)) throw wrong();
  return bytes;
}

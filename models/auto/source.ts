import { existsSync, readFileSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { UserError } from "../../runtime/errors.ts";
import { openCheckpoint } from "../../runtime/node/checkpoint.ts";
import type { Checkpoint } from "../../runtime/node/checkpoint.ts";
import { isFloatDType } from "../../runtime/numeric.ts";
import { storageBytes } from "../../runtime/safetensors.ts";
import { loadTokenizer } from "../../runtime/text/auto-tokenizer.ts";
import type { SourceTensor, WeightSource } from "../../runtime/weights.ts";
import type { BambaConfig } from "../bamba/config.ts";
import { parseBambaConfig, parseConfigJson } from "../bamba/config.ts";
import type { JsonObject } from "../bamba/json.ts";
import { bambaFromMambaSsm, isMambaSsmConfig, matchMambaSsmTensors } from "../bamba/mamba-ssm.ts";
import type { SpecialTokenIds, TensorRows } from "../bamba/mamba-ssm.ts";
import { bambaTensors, matchBambaTensors, parameterCount } from "../bamba/weights.ts";

/** How weights are held in memory. */
export type WeightDType = "f32" | "bf16" | "f16";

/** A checked configuration and what it was read from. */
export interface ConfigSource {
  readonly config: BambaConfig;
  /** The config.json of a Bamba model, with the fields that this program does not know. */
  readonly json: JsonObject;
  /** `mamba_ssm`: the folder has the files of the original training code, and `json` is what they mean. */
  readonly format: "transformers" | "mamba_ssm";
}

/** A model as it lies on disk, checked: every tensor that the configuration asks for is there, in its shape, and nothing else. */
export interface ModelSource extends ConfigSource {
  readonly folder: string;
  /** `dtype: "auto"`: what the configuration names, else the type of the checkpoint's first tensor (spec bamba (g)). */
  readonly dtype: WeightDType;
  readonly parameters: number;
  /** The weights under the names that the graphs use. */
  readonly weights: WeightSource;
  readonly checkpoint: Checkpoint;
}

/** Reads and checks `config.json` of a model's folder. @throws UserError naming file and field. */
export function readConfig(folder: string): ConfigSource {
  if (!existsSync(folder))
    throw new UserError(`${folder}: there is no such folder`, { hint: "give the folder that holds config.json and the weights" });
  if (!statSync(folder).isDirectory())
    throw new UserError(`${folder}: is not a folder`, { hint: "give the folder that holds config.json and the weights" });
  const file = join(folder, "config.json");
  const json = readConfigJson(file);
  if (!isMambaSsmConfig(json)) return { config: parseBambaConfig(json, file), json, format: "transformers" };
  const tokens = specialTokens(folder);
  const bamba = bambaFromMambaSsm(json, tokens ?? {}, file);
  const config = parseBambaConfig(bamba, `${file} (of mamba_ssm, as a Bamba model)`);
  const warnings =
    tokens === null
      ? ["there is no tokenizer.json beside the mamba_ssm model: its special tokens are taken to be 0 (pad), 1 (bos) and 2 (eos)"]
      : [];
  return { config: { ...config, warnings: [...config.warnings, ...warnings] }, json: bamba, format: "mamba_ssm" };
}

/** Those of the tokenizer beside the model, or null without one. */
function specialTokens(folder: string): SpecialTokenIds | null {
  if (!existsSync(join(folder, "tokenizer.json"))) return null;
  const tokenizer = loadTokenizer(folder);
  const ids = (["bos", "eos", "pad"] as const).flatMap((name) => {
    const id = tokenizer[name]?.id ?? null;
    return id === null ? [] : [[name, id] as const];
  });
  return Object.fromEntries(ids);
}

export function readConfigJson(file: string): Readonly<Record<string, unknown>> {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (cause) {
    const code = cause instanceof Error && "code" in cause ? cause.code : undefined;
    const why = code === "ENOENT" ? "there is no such file" : cause instanceof Error ? cause.message : String(cause);
    throw new UserError(`${file}: cannot be read (${why})`, { cause, hint: "a model's folder has a config.json beside its weights" });
  }
  return parseConfigJson(text, file);
}

/**
 * Opens a model's folder. Only headers are read.
 * @param head false for a model without its head, which the checkpoint then need not have (it is that of the bare BambaModel, or left aside)
 * @throws UserError naming the file, and the field or tensor.
 */
export function openModelSource(folder: string, { head = true }: { readonly head?: boolean } = {}): ModelSource {
  const source = readConfig(folder);
  const { format } = source;
  // A tied head is none of the checkpoint's tensors either.
  const config = head ? source.config : { ...source.config, tieWordEmbeddings: true };
  const checkpoint = openCheckpoint(folder);
  try {
    const { tensors, path } = checkpoint;
    const places = format === "mamba_ssm" ? matchMambaSsmTensors(config, tensors, path) : wholeTensors(config, checkpoint);
    const weights = viewOf(checkpoint, config, places);
    for (const [name, { dtype, file }] of weights.tensors) {
      if (!isFloatDType(dtype)) throw new UserError(`${file}: tensor ${name} has dtype ${dtype}, expected F32, F16, BF16 or F64`);
    }
    return { ...source, folder, dtype: config.dtype ?? storedDType(checkpoint), parameters: parameterCount(config), weights, checkpoint };
  } catch (error) {
    checkpoint.close();
    throw error;
  }
}

function wholeTensors(config: BambaConfig, { tensors, path }: Checkpoint): ReadonlyMap<string, TensorRows> {
  return new Map([...matchBambaTensors(config, tensors, path)].map(([name, stored]) => [name, { stored, firstRow: 0 }]));
}

/** The checkpoint under the graphs' names: each tensor is a stored one or some of its rows, read where they lie. What is not among them is not there. */
function viewOf(checkpoint: Checkpoint, config: BambaConfig, places: ReadonlyMap<string, TensorRows>): WeightSource {
  const tensors = new Map<string, SourceTensor>();
  const starts = new Map<string, number>();
  for (const { name, shape } of bambaTensors(config)) {
    const { stored, firstRow } = places.get(name)!;
    const { dtype, file } = checkpoint.tensors.get(stored)!;
    tensors.set(name, { dtype, shape, file });
    starts.set(name, shape.slice(1).reduce((product, size) => product * size, firstRow) * storageBytes[dtype]);
  }
  return {
    path: checkpoint.path,
    tensors,
    readInto: (name, target, offset) => checkpoint.load(places.get(name)!.stored, target, starts.get(name)! + offset),
  };
}

/**
 * The type of the first float tensor. Transformers reads the shards in the order of their names and a shard's tensors in the order of theirs, so
 * that this matters in a checkpoint of several types. Those that are not held in memory as they are become f32.
 */
function storedDType({ tensors }: Checkpoint): WeightDType {
  const inOrder = [...tensors.values()].sort((a, b) => compare(basename(a.file), basename(b.file)) || compare(a.name, b.name));
  const first = inOrder.find(({ dtype }) => isFloatDType(dtype))?.dtype;
  return first === "BF16" ? "bf16" : first === "F16" ? "f16" : "f32";
}

const compare = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);

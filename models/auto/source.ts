import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../../runtime/errors.ts";
import { openCheckpoint } from "../../runtime/node/checkpoint.ts";
import type { Checkpoint } from "../../runtime/node/checkpoint.ts";
import { isFloatDType } from "../../runtime/numeric.ts";
import type { SourceTensor, WeightSource } from "../../runtime/weights.ts";
import type { BambaConfig } from "../bamba/config.ts";
import { parseBambaConfig, parseConfigJson } from "../bamba/config.ts";
import { matchBambaTensors, parameterCount } from "../bamba/weights.ts";

/** How weights are held in memory. */
export type WeightDType = "f32" | "bf16" | "f16";

/** A model as it lies on disk, checked: every tensor that the configuration asks for is there, in its shape, and nothing else. */
export interface ModelSource {
  readonly folder: string;
  readonly config: BambaConfig;
  /** The type that the checkpoint, or its configuration, names. */
  readonly dtype: WeightDType;
  readonly parameters: number;
  /** The weights under the names that the graphs use. */
  readonly weights: WeightSource;
  readonly checkpoint: Checkpoint;
}

/** Reads and checks `config.json` of a model's folder. @throws UserError naming file and field. */
export function readConfig(folder: string): BambaConfig {
  const stat = statSync(folder, { throwIfNoEntry: false });
  if (stat === undefined)
    throw new UserError(`${folder}: there is no such folder`, { hint: "give the folder that holds config.json and the weights" });
  if (!stat.isDirectory())
    throw new UserError(`${folder}: is not a folder`, { hint: "give the folder that holds config.json and the weights" });
  return readConfigFile(join(folder, "config.json"));
}

/** Reads and checks a configuration. @throws UserError naming file and field. */
export function readConfigFile(file: string): BambaConfig {
  return parseBambaConfig(readConfigJson(file), file);
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

/** Opens a model's folder. Only headers are read. @throws UserError naming the file, and the field or tensor. */
export function openModelSource(folder: string): ModelSource {
  const config = readConfig(folder);
  const checkpoint = openCheckpoint(folder);
  try {
    const names = matchBambaTensors(config, checkpoint.tensors, checkpoint.path);
    const weights = renamed(checkpoint, names);
    for (const [name, { dtype, file }] of weights.tensors) {
      if (!isFloatDType(dtype)) throw new UserError(`${file}: tensor ${name} has dtype ${dtype}, expected F32, F16, BF16 or F64`);
    }
    return { folder, config, dtype: config.dtype ?? storedDType(weights), parameters: parameterCount(config), weights, checkpoint };
  } catch (error) {
    checkpoint.close();
    throw error;
  }
}

/** The checkpoint under the graphs' names. What is not among them is not there. */
function renamed(checkpoint: Checkpoint, names: ReadonlyMap<string, string>): WeightSource {
  return {
    path: checkpoint.path,
    tensors: new Map([...names].map(([name, stored]): [string, SourceTensor] => [name, checkpoint.tensors.get(stored)!])),
    readInto: (name, target, offset) => checkpoint.readInto(names.get(name)!, target, offset),
  };
}

/** As Transformers' dtype "auto" without a word in the configuration: what the first tensor is. */
function storedDType(weights: WeightSource): WeightDType {
  const first = [...weights.tensors.values()][0]?.dtype;
  return first === "BF16" ? "bf16" : first === "F16" ? "f16" : "f32";
}

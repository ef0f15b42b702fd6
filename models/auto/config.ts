import type { HubOptions } from "../../runtime/hub/options.ts";
import { resolveModel } from "../../runtime/hub/resolve.ts";
import type { BambaConfig as BambaConfigData } from "../bamba/config.ts";
import { ConfigError, layersBlockType, parseBambaConfig } from "../bamba/config.ts";
import { bambaConfigJson } from "../bamba/config-json.ts";
import type { JsonObject } from "../bamba/json.ts";
import { readConfig } from "./source.ts";

/** The fields of a BambaConfig in Transformers, in camelCase. Source: spec bamba a.1. */
interface CamelFields {
  readonly vocabSize: number;
  readonly tieWordEmbeddings: boolean;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numHiddenLayers: number;
  readonly numAttentionHeads: number;
  readonly numKeyValueHeads: number | null;
  readonly headDim: number | null;
  readonly hiddenAct: string;
  readonly initializerRange: number;
  readonly rmsNormEps: number;
  readonly useCache: boolean;
  readonly numLogitsToKeep: number | null;
  readonly padTokenId: number | null;
  readonly bosTokenId: number | null;
  readonly eosTokenId: number | readonly number[] | null;
  readonly maxPositionEmbeddings: number;
  readonly attentionDropout: number;
  readonly zLossCoefficient: number;
  readonly attentionBias: boolean;
  readonly mlpBias: boolean;
  readonly attnLayerIndices: readonly number[] | null;
  readonly mambaNHeads: number;
  readonly mambaDHead: number | "auto";
  readonly mambaNGroups: number;
  readonly mambaDState: number;
  readonly mambaDConv: number;
  readonly mambaExpand: number;
  readonly mambaChunkSize: number;
  readonly mambaConvBias: boolean;
  readonly mambaProjBias: boolean;
  readonly timeStepLimit: readonly [number, number];
  /** ropeType, ropeTheta, partialRotaryFactor and what the type needs. */
  readonly ropeParameters: Readonly<Record<string, unknown>> | null;
  readonly dtype: string | null;
}

type SnakeCase<S extends string> = S extends `${infer Head}${infer Tail}`
  ? `${Head extends Lowercase<Head> ? Head : `_${Lowercase<Head>}`}${SnakeCase<Tail>}`
  : "";

/** What a configuration is made of: every field may be left out, and be called as here or as in Python. */
export type BambaFields = Partial<CamelFields> & Partial<{ readonly [K in keyof CamelFields as SnakeCase<K>]: CamelFields[K] }>;

export type BambaConfig = BambaConfigData;

/** Configurations of Bamba models: plain data, made and checked here. */
export const BambaConfig = {
  /**
   * Reads config.json, that of mamba_ssm too, in a model's folder or in a repository of the hub, of which nothing else is downloaded.
   * @throws UserError naming file and field; as `resolveModel` for what the hub and its cache have.
   */
  async fromPretrained(nameOrFolder: string, options: HubOptions = {}): Promise<BambaConfig> {
    return readConfig(await resolveModel(nameOrFolder, { ...options, part: "config" })).config;
  },

  /**
   * A configuration from its fields; those left out have Transformers' defaults (spec bamba a.1). Fields with a Python name that no Bamba model
   * has are without meaning, as in Transformers.
   * @throws UserError naming the field: for a value that makes no sense, for one in camelCase that there is not, and for one given by both names.
   */
  from(fields: BambaFields = {}): BambaConfig {
    return parseBambaConfig({ ...pythonNames(fields), model_type: "bamba" }, "BambaConfig");
  },

  /** What savePretrained writes to config.json: Python's names, every field; `from` makes the same configuration of it. */
  toJson(config: BambaConfig): JsonObject {
    return bambaConfigJson(config);
  },

  /** The kind of each layer by Transformers' names. */
  layersBlockType,
};

const camelNames: ReadonlySet<string> = new Set<keyof CamelFields>([
  "vocabSize",
  "tieWordEmbeddings",
  "hiddenSize",
  "intermediateSize",
  "numHiddenLayers",
  "numAttentionHeads",
  "numKeyValueHeads",
  "headDim",
  "hiddenAct",
  "initializerRange",
  "rmsNormEps",
  "useCache",
  "numLogitsToKeep",
  "padTokenId",
  "bosTokenId",
  "eosTokenId",
  "maxPositionEmbeddings",
  "attentionDropout",
  "zLossCoefficient",
  "attentionBias",
  "mlpBias",
  "attnLayerIndices",
  "mambaNHeads",
  "mambaDHead",
  "mambaNGroups",
  "mambaDState",
  "mambaDConv",
  "mambaExpand",
  "mambaChunkSize",
  "mambaConvBias",
  "mambaProjBias",
  "timeStepLimit",
  "ropeParameters",
  "dtype",
]);

function pythonNames(fields: object): JsonObject {
  const json = new Map<string, unknown>();
  for (const [name, value] of Object.entries(fields)) {
    // As everywhere in TypeScript, undefined is "not given".
    if (value === undefined) continue;
    if (name !== snakeCase(name) && !camelNames.has(name)) {
      throw new ConfigError(`BambaConfig: ${name}: there is no such field`, { hint: `there are ${[...camelNames].join(", ")}` });
    }
    const python = snakeCase(name);
    if (json.has(python)) throw new ConfigError(`BambaConfig: ${python}: is given twice, as ${name} too`);
    json.set(python, name === "ropeParameters" && isObject(value) ? snakeKeys(value) : value);
  }
  return Object.fromEntries(json);
}

const isObject = (value: unknown): value is object => typeof value === "object" && value !== null && !Array.isArray(value);
const snakeKeys = (value: object): JsonObject => Object.fromEntries(Object.entries(value).map(([name, v]) => [snakeCase(name), v]));
const snakeCase = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

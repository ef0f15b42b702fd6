import { ConfigError } from "./config-error.ts";
import type { BambaConfig } from "./config.ts";

/**
 * How a random tensor of realistic size is drawn; the runtime's writer of random checkpoints understands these.
 * `normal`: mean 0, standard deviation `std`. `constant`: every element. `log-index`: ln(i + 1) at element i.
 * `inverse-softplus`: x such that softplus(x) is log-uniform in [low, high].
 */
export type TensorInit =
  | { readonly kind: "normal"; readonly std: number }
  | { readonly kind: "constant"; readonly value: number }
  | { readonly kind: "log-index" }
  | { readonly kind: "inverse-softplus"; readonly low: number; readonly high: number };

export interface BambaTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly init: TensorInit;
}

const ones: TensorInit = { kind: "constant", value: 1 };

/**
 * Every tensor of a checkpoint of `BambaForCausalLM`, in the order of a PyTorch module: a module's own
 * parameters, then those of its modules as they were made. Matrices are [out, in]. `lm_head.weight` is missing when the embedding
 * is tied to it. Source: spec bamba (b); A_log, D and dt_bias start as in the original Mamba-2 training.
 */
export function bambaTensors(config: BambaConfig): readonly BambaTensor[] {
  const { hiddenSize: d, vocabSize } = config;
  const weight: TensorInit = { kind: "normal", std: config.initializerRange };
  const tensors: BambaTensor[] = [];
  const add = (name: string, shape: readonly number[], init: TensorInit = weight): void => {
    tensors.push({ name, shape, init });
  };
  const linear = (name: string, out: number, input: number, bias: boolean): void => {
    add(`${name}.weight`, [out, input]);
    if (bias) add(`${name}.bias`, [out]);
  };
  add("model.embed_tokens.weight", [vocabSize, d]);
  config.layerKinds.forEach((kind, i) => {
    const layer = `model.layers.${i}`;
    linear(`${layer}.feed_forward.gate_proj`, config.intermediateSize, d, config.mlpBias);
    linear(`${layer}.feed_forward.up_proj`, config.intermediateSize, d, config.mlpBias);
    linear(`${layer}.feed_forward.down_proj`, d, config.intermediateSize, config.mlpBias);
    add(`${layer}.input_layernorm.weight`, [d], ones);
    add(`${layer}.pre_ff_layernorm.weight`, [d], ones);
    if (kind === "mamba") mambaTensors(config, `${layer}.mamba`, add, linear);
    else attentionTensors(config, `${layer}.self_attn`, linear);
  });
  add("model.final_layernorm.weight", [d], ones);
  if (!config.tieWordEmbeddings) add("lm_head.weight", [vocabSize, d]);
  return tensors;
}

type Add = (name: string, shape: readonly number[], init?: TensorInit) => void;
type AddLinear = (name: string, out: number, input: number, bias: boolean) => void;

function mambaTensors(config: BambaConfig, at: string, add: Add, linear: AddLinear): void {
  const { mambaHeads: heads, convChannels, mambaConvWidth: width } = config;
  add(`${at}.dt_bias`, [heads], { kind: "inverse-softplus", low: 1e-3, high: 1e-1 });
  add(`${at}.A_log`, [heads], { kind: "log-index" });
  add(`${at}.D`, [heads], ones);
  // A sum over `width` inputs: this keeps the variance of what goes in.
  add(`${at}.conv1d.weight`, [convChannels, 1, width], { kind: "normal", std: width ** -0.5 });
  if (config.mambaConvBias) add(`${at}.conv1d.bias`, [convChannels]);
  linear(`${at}.in_proj`, config.projectionSize, config.hiddenSize, config.mambaProjBias);
  add(`${at}.norm.weight`, [config.innerSize], ones);
  linear(`${at}.out_proj`, config.hiddenSize, config.innerSize, config.mambaProjBias);
}

function attentionTensors(config: BambaConfig, at: string, linear: AddLinear): void {
  const { hiddenSize: d, numAttentionHeads, numKeyValueHeads, headDim, attentionBias: bias } = config;
  linear(`${at}.q_proj`, numAttentionHeads * headDim, d, bias);
  linear(`${at}.k_proj`, numKeyValueHeads * headDim, d, bias);
  linear(`${at}.v_proj`, numKeyValueHeads * headDim, d, bias);
  linear(`${at}.o_proj`, d, numAttentionHeads * headDim, bias);
}

/** The number of parameters of the model; a tied embedding counts once. */
export function parameterCount(config: BambaConfig): number {
  return bambaTensors(config).reduce((sum, { shape }) => sum + shape.reduce((product, size) => product * size, 1), 0);
}

/** What is to be known of a tensor in a file. */
export interface StoredTensor {
  readonly shape: readonly number[];
  readonly file: string;
}

const together = "the checkpoint and its config.json must belong together";

/**
 * Finds every tensor of the model in a checkpoint. A checkpoint of the bare `BambaModel` has the same names without `model.`.
 * Left aside are `rotary_emb.inv_freq`, which older files store and nobody reads, and the `lm_head.weight` of a tied model.
 *
 * Stricter than Transformers, which makes missing tensors anew from random numbers and drops those that it does not know.
 * @param where the checkpoint, for messages
 * @returns for each name of bambaTensors the name in the checkpoint.
 * @throws ConfigError listing the tensors that are missing or that the model has no place for, or naming the first of a wrong shape.
 */
export function matchBambaTensors(
  config: BambaConfig,
  stored: ReadonlyMap<string, StoredTensor>,
  where: string,
): ReadonlyMap<string, string> {
  const bare = !stored.has("model.embed_tokens.weight") && stored.has("embed_tokens.weight");
  const storedName = (name: string): string => (bare ? name.replace(/^model\./, "") : name);
  const tensors = bambaTensors(config);
  if (bare && !config.tieWordEmbeddings && !stored.has("lm_head.weight")) {
    throw new ConfigError(`${where}: tensor lm_head.weight is missing: this is a checkpoint of the bare BambaModel`, {
      hint: "a language model needs its head; take the checkpoint of BambaForCausalLM, or set tie_word_embeddings if they were tied",
    });
  }
  checkTensors(new Map(tensors.map(({ name, shape }) => [storedName(name), shape])), stored, config.tieWordEmbeddings, where);
  return new Map(tensors.map(({ name }) => [name, storedName(name)]));
}

/**
 * Checks that a checkpoint has the tensors that are expected, in their shapes, and nothing else but what is left aside (matchBambaTensors).
 * @throws ConfigError as matchBambaTensors.
 */
export function checkTensors(
  expected: ReadonlyMap<string, readonly number[]>,
  stored: ReadonlyMap<string, StoredTensor>,
  tied: boolean,
  where: string,
): void {
  const missing: string[] = [];
  for (const [name, shape] of expected) {
    const found = stored.get(name);
    if (found === undefined) missing.push(name);
    else checkShape(name, shape, found);
  }
  if (missing.length > 0) throw new ConfigError(`${where}: ${listed(missing)} missing`, { hint: together });
  const extra = [...stored.keys()].filter(
    (name) => !expected.has(name) && !name.endsWith("rotary_emb.inv_freq") && !(tied && name === "lm_head.weight"),
  );
  if (extra.length > 0) {
    throw new ConfigError(`${where}: ${listed(extra)} not expected by the model that config.json describes`, {
      hint: "check attn_layer_indices, the bias fields and num_hidden_layers in config.json",
    });
  }
}

function checkShape(name: string, expected: readonly number[], { shape, file }: StoredTensor): void {
  if (shape.length === expected.length && shape.every((size, i) => size === expected[i])) return;
  throw new ConfigError(`${file}: tensor ${name} has shape [${shape.join(", ")}], config.json asks for [${expected.join(", ")}]`, {
    hint: `${together}; there is no ignore_mismatched_sizes`,
  });
}

function listed(names: readonly string[]): string {
  const few = names.slice(0, 3).join(", ");
  if (names.length === 1) return `tensor ${few} is`;
  return `${names.length} tensors (${few}${names.length > 3 ? ", ..." : ""}) are`;
}

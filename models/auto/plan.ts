import { UserError } from "../../runtime/errors.ts";
import type { BambaConfig } from "../bamba/config.ts";
import type { NamedGraph } from "./interpret.ts";
import type { WeightDType } from "./source.ts";

/** What a model is compiled for. Everything that the graphs depend on beside the configuration. */
export interface ModelPlan {
  readonly dtype: WeightDType;
  /** Positions that the caches have room for. */
  readonly capacity: number;
  /** Most tokens of one prefill call. */
  readonly chunk: number;
  /** Most rows. */
  readonly batch: number;
  /** `generate`: prefill, decode and sample, logits of the last position. `forward`: of as many of the last positions as a call asks for. */
  readonly use: "generate" | "forward";
  readonly hiddenStates: boolean;
  /** `forward` only: the attention weights too. */
  readonly attentions: boolean;
  /** `forward` only: false leaves the head out, as Transformers' BambaModel, and gives the output of the final norm. */
  readonly head: boolean;
  readonly embeds: boolean;
  readonly loss: boolean;
  /** How keys and values of attention are stored, and the states of the Mamba layers, which are computed in f32 all the same. */
  readonly kvCache: WeightDType;
  readonly state: "f32" | "bf16";
  /** How what Mamba layers compute is stored from one kernel to the next. */
  readonly activations: "f32" | "bf16";
  /** Steps after which decoding stores the states of the Mamba layers, which until then it only reads; 0: at each. */
  readonly replay: number;
  /** Rounding of the rotary frequencies. */
  readonly rotary: "f32" | "bf16";
  /** Transformers' rounding points, for weights of 16 bits. */
  readonly strict: boolean;
}

export interface PlanOptions {
  readonly dtype?: WeightDType | "auto";
  /** Positions that the caches have room for, prompt and answer; the smaller of 4096 and what the model was made for unless given. */
  readonly maxLength?: number;
  /** Most tokens of a prompt that are worked on at once; 512 unless given. */
  readonly prefillChunk?: number;
  /** Most prompts at once; 1 unless given. */
  readonly batch?: number;
  /** How keys and values of attention are stored: auto, unless given, is as the weights on CUDA, where they are what limits batches, and f32 elsewhere. */
  readonly kvCache?: WeightDType | "auto";
  /** How the states of the Mamba layers are stored between calls; f32 unless given. Half the bytes in bf16, rounded once a token. */
  readonly state?: "f32" | "bf16";
  /**
   * What projections, convolutions and gated scans of Mamba layers are rounded to where one kernel stores them for the next; f32 unless given. bf16 is half the bytes,
   * and as rough there as Transformers is in bf16.
   */
  readonly activations?: "f32" | "bf16";
  /**
   * Keep the last so many inputs (2 to 32) beside each state of a Mamba layer, so that decoding only reads the states and stores them once in so many steps; 0 keeps
   * none. Unless given, 16 for 8 rows and more on CUDA with states of 16 bits, and 0 elsewhere. Only `generate` takes it.
   */
  readonly replay?: number;
  /** Rounding of the rotary frequencies: f32 unless given; bf16 is what a PyTorch model has that was cast to bfloat16 as a whole. */
  readonly rotary?: "f32" | "bf16";
  /**
   * Be Transformers' eager PyTorch path in all that it does: round wherever it holds a result in the type of the weights (bf16 or f16), to get its numbers
   * instead of more exact ones, which is slow; and, with weights of any type, forget time_step_limit in single steps, let padding touch the states of Mamba
   * layers, and leak from one packed sequence into the next. False unless given.
   */
  readonly strict?: boolean;
}

const defaultLength = 4096;
const defaultChunk = 512;
/** A kernel has an instruction for each input that a ring has room for; and reading more of them costs more than storing less often saves. */
const longestReplay = 32;
/**
 * Inputs that are kept by default, and from how many rows on: on an H200 a state update of 8, 64 and 256 rows of Bamba 9B then took 8.5, 46 and 168 us instead of 12, 74
 * and 283; with 8 inputs 9.3, 49 and 177 (tests/bench/cuda-steps.ts; with 16 inputs 64 and 256 rows have come down to 44 and 160 us since).
 */
const usualReplay = { inputs: 16, rows: 8 };

/** Fills in what is not given, as it is best for a backend. @throws UserError when a number is out of its range, or for options that contradict each other. */
export function planModel(config: BambaConfig, stored: WeightDType, options: PlanOptions, backend = "llvm"): ModelPlan {
  const count = (name: string, flag: string, value: number | undefined, fallback: number): number => {
    if (value === undefined) return fallback;
    if (!Number.isInteger(value) || value < 1 || value >= 2 ** 31)
      throw new UserError(`${name} (${flag}): expected a whole number from 1, got ${value}`);
    return value;
  };
  const { strict = false, state = "f32", activations = "f32", kvCache = "auto" } = options;
  const batch = count("batch", "--batch", options.batch, 1);
  const many = backend === "cuda" && state !== "f32" && !strict && batch >= usualReplay.rows;
  const replay = options.replay ?? (many ? usualReplay.inputs : 0);
  if (!Number.isInteger(replay) || (replay !== 0 && (replay < 2 || replay > longestReplay)))
    throw new UserError(`replay (--replay): expected 0 or a whole number from 2 to ${longestReplay}, got ${replay}`);
  if (strict && replay !== 0)
    throw new UserError(`replay (--replay): strict (--strict) is to be Transformers in all, which stores its states at each step`);
  if (backend === "webgpu" && replay !== 0)
    throw new UserError("replay (--replay): a step that keeps its inputs binds more buffers than WebGPU lets a kernel have", {
      hint: "leave it out",
    });
  if (strict && state !== "f32")
    throw new UserError(
      `state (--state): ${state} is a rounding that Transformers does not do, and strict (--strict) is to be Transformers in all`,
    );
  if (strict && activations !== "f32")
    throw new UserError(
      `activations (--activations): strict (--strict) rounds as Transformers does with weights of their type, and nothing else`,
      { hint: "leave one of them out" },
    );
  const dtype = options.dtype === undefined || options.dtype === "auto" ? stored : options.dtype;
  const capacity = count("maxLength", "--max-length", options.maxLength, Math.min(config.maxPositionEmbeddings, defaultLength));
  return {
    dtype,
    capacity,
    chunk: Math.min(capacity, count("prefillChunk", "--prefill-chunk", options.prefillChunk, defaultChunk)),
    batch,
    use: "generate",
    hiddenStates: false,
    attentions: false,
    head: true,
    embeds: false,
    loss: false,
    kvCache: kvCache !== "auto" ? kvCache : backend === "cuda" ? dtype : "f32",
    state,
    activations,
    replay,
    rotary: options.rotary ?? "f32",
    strict,
  };
}

/** The programs of a plan. The language is loaded here and not before: a model that was compiled earlier needs none of it. */
export async function traceModel(config: BambaConfig, plan: ModelPlan): Promise<readonly NamedGraph[]> {
  const [{ bambaGraph, settleGraph }, { sampleGraph }] = await Promise.all([import("../bamba/model.ts"), import("./sample.ts")]);
  const { capacity, chunk, batch, dtype, hiddenStates, attentions, head, embeds, loss } = plan;
  const { kvCache, state, activations, replay, rotary, strict } = plan;
  const common = { capacity, weights: dtype, kvCache, state, activations, rotary, strict };
  const rows = batch === 1 ? 1 : ([1, batch] as const);
  if (plan.use === "forward") {
    const logits = loss ? "all" : head ? "kept" : "none";
    const asked = { ...common, logits, hiddenStates, attentions } as const;
    const graph = bambaGraph(config, { ...asked, phase: "prefill", batch: rows, maxSeq: chunk, embeds, loss });
    if (embeds || loss) return [{ name: "prefill", graph }];
    return [
      { name: "prefill", graph },
      { name: `decode.${batch}`, graph: bambaGraph(config, { ...asked, phase: "decode", batch }) },
    ];
  }
  return [
    { name: "prefill", graph: bambaGraph(config, { ...common, phase: "prefill", batch: rows, maxSeq: chunk }) },
    { name: `decode.${batch}`, graph: bambaGraph(config, { ...common, phase: "decode", batch, optionalLogits: true, replay }) },
    { name: "sample", graph: sampleGraph(config.vocabSize, rows) },
    ...(replay > 0 ? [{ name: "settle", graph: settleGraph(config, { batch: rows, replay, weights: dtype, state }) }] : []),
  ];
}

/** Facts that the session needs and the graphs do not say: which axis of a state runs over positions. */
export function positionAxes(config: BambaConfig): Readonly<Record<string, number>> {
  return Object.fromEntries(config.attentionLayers.flatMap((layer) => ["keys", "values"].map((kind) => [`layers.${layer}.${kind}`, 2])));
}

/** Of a plan with `replay`: the states that hold a scan's last inputs, which only a session's `held` gives a meaning. */
export function ringStates(config: BambaConfig): readonly string[] {
  return config.layerKinds.flatMap((kind, layer) =>
    kind === "mamba" ? ["ring_x", "ring_B", "ring_dt"].map((name) => `layers.${layer}.${name}`) : [],
  );
}

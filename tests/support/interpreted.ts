import type { Graph } from "../../compiler/ir/graph.ts";
import type { Tensor, Tensors } from "../../compiler/run/graph.ts";
import { interpretGraph, tensor } from "../../compiler/run/graph.ts";
import type { BambaConfig, BambaOptions } from "../../models/bamba/index.ts";
import { bambaGraph } from "../../models/bamba/index.ts";

/** What one call feeds besides the state. Positions continue from the cache and nothing is padding unless said otherwise. */
export interface Feed {
  readonly ids?: Tensor;
  readonly embeds?: Tensor;
  readonly labels?: Tensor;
  readonly positions?: Tensor;
  /** [batch, positions so far], 0 = padding. */
  readonly mask?: Tensor;
  /** Positions whose logits are wanted, of a program with `logits: "kept"`; all unless given. */
  readonly kept?: number;
}

type Fixed = Pick<BambaOptions, "batch" | "capacity" | "weights" | "rotary" | "strict">;

/** A running Bamba model on the graph interpreter: states, position and mask are kept from call to call as a session does. */
export class Interpreted {
  states: Tensors = {};
  past = 0;
  private readonly graphs = new Map<string, Graph>();
  private readonly config: BambaConfig;
  private readonly params: Tensors;
  private readonly options: Fixed;

  constructor(config: BambaConfig, params: Tensors, options: Fixed) {
    this.config = config;
    this.params = params;
    this.options = options;
  }

  run(feed: Feed, options: Omit<BambaOptions, keyof Fixed>): Tensors {
    const key = JSON.stringify(options);
    const graph = this.graphs.get(key) ?? bambaGraph(this.config, { ...this.options, ...options });
    this.graphs.set(key, graph);
    const [batch, seq] = (feed.ids ?? feed.embeds!).shape as [number, number];
    const { capacity } = this.options;
    const inputs: Record<string, Tensor> = {
      position_ids:
        feed.positions ??
        tensor(
          "i32",
          [batch, seq],
          Array.from({ length: batch * seq }, (_, i) => this.past + (i % seq)),
        ),
      ...sequences(feed.mask, batch, capacity, this.past, seq),
      ...(feed.ids ? { input_ids: feed.ids } : {}),
      ...(feed.embeds ? { inputs_embeds: feed.embeds } : {}),
      ...(feed.labels ? { labels: feed.labels } : {}),
    };
    const { outputs, states } = interpretGraph(graph, {
      symbols: { batch, seq, past: this.past, kept: feed.kept ?? seq },
      inputs,
      params: this.params,
      states: this.states,
    });
    this.states = states;
    this.past += seq;
    return outputs;
  }
}

/** Ids of rows of one sequence each, and where each row's tokens end in this call. */
function sequences(mask: Tensor | undefined, batch: number, capacity: number, past: number, seq: number): Record<string, Tensor> {
  const ids = new Int32Array(batch * capacity);
  const ends = new Int32Array(batch);
  for (let row = 0; row < batch; row++)
    for (let j = 0; j < capacity; j++) {
      const padding = mask && j < mask.shape[1]! && mask.data[row * mask.shape[1]! + j] === 0;
      ids[row * capacity + j] = padding ? -1 : 1;
      if (!padding && j >= past && j < past + seq) ends[row] = j - past + 1;
    }
  return { sequence_ids: tensor("i32", [batch, capacity], ids), sequence_ends: tensor("i32", [batch], ends) };
}

import type { Graph } from "../../compiler/ir/graph.ts";
import type { Tensor, Tensors } from "../../compiler/run/graph.ts";
import { interpretGraph, tensor } from "../../compiler/run/graph.ts";
import type { BambaConfig, BambaOptions } from "../../models/bamba/index.ts";
import { bambaGraph } from "../../models/bamba/index.ts";

/** What one call feeds besides the state. Positions continue from the cache and no key is hidden unless said otherwise. */
export interface Feed {
  readonly ids?: Tensor;
  readonly embeds?: Tensor;
  readonly labels?: Tensor;
  readonly positions?: Tensor;
  /** [batch, keys so far], 1 = keep. */
  readonly mask?: Tensor;
  /** Positions whose logits are wanted, of a program with `logits: "kept"`; all unless given. */
  readonly kept?: number;
}

type Fixed = Pick<BambaOptions, "batch" | "capacity" | "weights" | "rotary" | "limitSteps" | "strict">;

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
      key_mask: tensor(
        "f32",
        [batch, capacity],
        Array.from({ length: batch * capacity }, (_, i) => maskAt(feed.mask, Math.floor(i / capacity), i % capacity)),
      ),
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

const maskAt = (mask: Tensor | undefined, row: number, key: number): number =>
  mask && key < mask.shape[1]! ? mask.data[row * mask.shape[1]! + key]! : 1;

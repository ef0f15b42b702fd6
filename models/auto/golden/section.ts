import type { BambaForCausalLM } from "../model.ts";
import type { Golden } from "./tensors.ts";

/** What of the model a tensor shows. */
export interface Point {
  /** Its dotted name: "layers.2", "layers.2.mamba.conv", "lm_head". */
  readonly name: string;
  /** The layer that made it; null outside of layers. */
  readonly layer: number | null;
  /** The graph's output or state that it is. */
  readonly value: { readonly output: string } | { readonly state: string };
}

/** A tensor of a section, computed. */
export interface Computed {
  readonly name: string;
  readonly shape: readonly number[];
  /** Floats, which agree within a tolerance, or tokens, which are equal. */
  readonly values: Float32Array | Int32Array;
  readonly point?: Point;
  /** Over the first axes of the tensor: 0 where there is padding, at which nothing is specified. */
  readonly real?: Int32Array;
}

/** What a section is computed from. */
export interface Inputs {
  readonly model: BambaForCausalLM;
  readonly golden: Golden;
  /** Whether a tensor is asked for; work for others is saved. */
  readonly wants: (name: string) => boolean;
}

/** A part of a golden file: how each of its tensors follows from its inputs. Source: README of the reference data. */
export interface Section {
  readonly name: string;
  /** Tensors that have to be given. */
  readonly needs: readonly string[];
  /** The tensors that are asked for, in the order in which the model computes them. @throws UserError for inputs that do not fit the model. */
  readonly compute: (inputs: Inputs) => AsyncGenerator<Computed, void, void>;
}

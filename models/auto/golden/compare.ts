import { UserError } from "../../../runtime/errors.ts";
import type { BambaForCausalLM } from "../model.ts";
import type { Difference } from "./difference.ts";
import { differenceOf } from "./difference.ts";
import { placeOf } from "./places.ts";
import type { Place } from "./places.ts";
import type { Point, Section } from "./section.ts";
import { sections } from "./sections.ts";
import type { Golden } from "./tensors.ts";

export interface CompareOptions {
  /** Names of the sections to compare; all unless given. */
  readonly sections?: readonly string[];
  /** What floats may differ by; 1e-4 for weights in f32, else 2e-2. */
  readonly tolerance?: number;
  /** How many tensors have been compared, of at most how many. */
  readonly onProgress?: (done: number, total: number) => void;
}

export interface SectionReport {
  readonly name: string;
  readonly tensors: readonly Compared[];
  /** Inputs that the file lacks, so that the section was not computed. */
  readonly missing: readonly string[];
  /** Tensors of the section's format that the file lacks. */
  readonly absent: readonly string[];
  /** Tensors that the file has and that were not computed. */
  readonly ignored: readonly string[];
}

export interface Compared extends Difference {
  /** What of the model the tensor shows; null for tokens, scores and losses. */
  readonly point: Point | null;
}

/** The first difference in the order of computation. */
export interface Divergence {
  readonly tensor: Compared;
  /** What it shows of the model; null when the tensor belongs to no layer. */
  readonly place: Place | null;
  /** Of the same layer, what else was compared: states after the prompt, attention weights, its output. */
  readonly layer: readonly Compared[];
  /** Whether the input of the layer is known to agree; where it is not, an earlier layer may be the cause. */
  readonly inputAgrees: boolean;
}

export interface Comparison {
  readonly agrees: boolean;
  readonly tolerance: number;
  readonly sections: readonly SectionReport[];
  /** Tensors of the file that belong to no section, such as gradients. */
  readonly ignored: readonly string[];
  readonly divergence: Divergence | null;
}

/** The tolerance that stands for "the same numbers, computed in another order". */
export const defaultTolerance = ({ plan }: BambaForCausalLM): number => (plan.dtype === "f32" ? 1e-4 : 2e-2);

/**
 * Computes what a golden file holds from the inputs that it holds, and compares.
 * @throws UserError for an unknown section, inputs that do not fit the model, a negative tolerance, and a file of which nothing can be
 * compared.
 */
export async function compareWithGolden(model: BambaForCausalLM, golden: Golden, options: CompareOptions = {}): Promise<Comparison> {
  const tolerance = options.tolerance ?? defaultTolerance(model);
  if (!(tolerance >= 0)) throw new UserError(`tolerance (--tolerance): expected a number from 0, got ${tolerance}`);
  const chosen = chooseSections(options.sections);
  const total = golden.names.filter((name) => chosen.some((section) => name.startsWith(`${section.name}.`))).length;
  const reports: SectionReport[] = [];
  let done = 0;
  const step = (tensors: number): void => {
    done += tensors;
    options.onProgress?.(done, total);
  };
  for (const section of chosen) {
    reports.push(await compareSection(model, golden, section, tolerance, step));
  }
  const all = reports.flatMap(({ tensors }) => tensors);
  if (all.length === 0)
    throw new UserError("the file has nothing of these sections that could be compared", {
      hint: `sections are ${sections.map(({ name }) => name).join(", ")}; tensors are named section.tensor`,
    });
  const first = all.find(({ agrees }) => !agrees);
  return {
    agrees: first === undefined,
    tolerance,
    sections: reports,
    ignored: golden.names.filter((name) => !sections.some((section) => name.startsWith(`${section.name}.`))),
    divergence: first === undefined ? null : await divergenceAt(model, first, all),
  };
}

/** @throws UserError for a section that there is not. */
export function chooseSections(names: readonly string[] | undefined): readonly Section[] {
  const unknown = names?.find((name) => !sections.some((section) => section.name === name));
  if (unknown !== undefined)
    throw new UserError(`unknown section ${unknown}`, { hint: `there are: ${sections.map(({ name }) => name).join(", ")}` });
  return names === undefined ? sections : sections.filter(({ name }) => names.includes(name));
}

async function compareSection(
  model: BambaForCausalLM,
  golden: Golden,
  { name, needs, compute }: Section,
  tolerance: number,
  step: (tensors: number) => void,
): Promise<SectionReport> {
  const has = new Set(golden.names);
  const own = golden.names.filter((tensor) => tensor.startsWith(`${name}.`) && !needs.includes(tensor) && !inputs.has(tensor));
  const missing = needs.filter((tensor) => !has.has(tensor));
  if (own.length === 0 || missing.length > 0) return { name, tensors: [], missing: own.length === 0 ? [] : missing, absent: [], ignored: own };
  const absent = new Set<string>();
  const wants = (tensor: string): boolean => {
    if (!has.has(tensor)) absent.add(tensor);
    return has.has(tensor);
  };
  const tensors: Compared[] = [];
  step(0);
  for await (const computed of compute({ model, golden, wants })) {
    tensors.push({ ...differenceOf(computed, golden.get(computed.name)!, tolerance), point: computed.point ?? null });
    step(1);
  }
  const compared = new Set(tensors.map((tensor) => tensor.name));
  return { name, tensors, missing: [], absent: [...absent], ignored: own.filter((tensor) => !compared.has(tensor)) };
}

/** Inputs that not every file of their section has. */
const inputs: ReadonlySet<string> = new Set(["forward.masked_labels"]);

async function divergenceAt(model: BambaForCausalLM, tensor: Compared, all: readonly Compared[]): Promise<Divergence> {
  const { point } = tensor;
  if (point === null) return { tensor, place: null, layer: [], inputAgrees: false };
  const { layer } = point;
  // The states after the prompt follow from tokens that the forward section has too, so they tell how far into the layer its numbers are right.
  const stage = /^cache\.after_[a-z]+\./.exec(tensor.name)?.[0] ?? "cache.after_prefill.";
  const of = (entry: Compared): boolean => entry.name.startsWith("forward.") || entry.name.startsWith(stage);
  const same = layer === null ? [tensor] : all.filter((entry) => entry.point?.layer === layer && of(entry));
  const points = (agrees: boolean): Point[] => same.flatMap((entry) => (entry.agrees === agrees && entry.point !== null ? [entry.point] : []));
  const input = `forward.hidden_states.${layer ?? model.config.numHiddenLayers}`;
  return {
    tensor,
    place: await placeOf(model, points(false), points(true)),
    layer: same.filter((entry) => entry !== tensor),
    inputAgrees: point.name === "embed_tokens" || all.some(({ name, agrees }) => name === input && agrees),
  };
}

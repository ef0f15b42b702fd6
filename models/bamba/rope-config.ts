import type { Fields } from "./fields.ts";
import { describe } from "./json.ts";

interface RopeBase {
  readonly theta: number;
  /** Share of a head's dimensions that is rotated [ρ]. */
  readonly partialRotaryFactor: number;
}

/**
 * Rotary position embedding, with what its type needs and every default resolved. `originalMaxPositions` is the context of the original
 * training; `attentionFactor` multiplies cos and sin. Source: spec bamba a.3 and Transformers' definitions of the types.
 */
export type RopeConfig = RopeBase &
  (
    | { readonly type: "default" }
    | { readonly type: "linear"; readonly factor: number }
    | { readonly type: "dynamic"; readonly factor: number; readonly originalMaxPositions: number }
    | {
        readonly type: "llama3";
        readonly factor: number;
        readonly originalMaxPositions: number;
        readonly lowFrequencyFactor: number;
        readonly highFrequencyFactor: number;
      }
    | {
        readonly type: "yarn";
        readonly factor: number;
        readonly originalMaxPositions: number;
        readonly attentionFactor: number;
        readonly betaFast: number;
        readonly betaSlow: number;
        readonly truncate: boolean;
      }
    | {
        readonly type: "longrope";
        readonly factor: number;
        readonly originalMaxPositions: number;
        readonly attentionFactor: number;
        readonly shortFactor: readonly number[];
        readonly longFactor: readonly number[];
      }
  );

const ropeTypes = ["default", "linear", "dynamic", "llama3", "yarn", "longrope"] as const;
type RopeType = (typeof ropeTypes)[number];

const positive = { above: 0, max: Number.MAX_VALUE } as const;

export interface RopeContext {
  readonly headDim: number;
  readonly maxPositionEmbeddings: number;
  /** Whether the model has a layer that rotates at all; the sizes are not checked otherwise. */
  readonly used: boolean;
  readonly warnings: string[];
}

/**
 * Reads `rope_parameters`, or the older `rope_scaling` (which wins) and top-level `rope_theta`. The share of rotated dimensions is 0.5 unless
 * `rope_parameters` itself says otherwise: like Transformers 5, a top-level partial_rotary_factor does not count.
 * @returns the configuration and R, the number of rotated dimensions of a head.
 * @throws ConfigError naming the field.
 */
export function parseRope(top: Fields, context: RopeContext): { readonly rope: RopeConfig; readonly rotaryDim: number } {
  const scaling = top.object("rope_scaling");
  const nested = scaling !== undefined && !scaling.isEmpty ? scaling : top.object("rope_parameters");
  const fields = nested ?? undefined;
  for (const name of ["full_attention", "linear_attention"]) {
    if (fields?.has(name)) throw fields.error(name, "rope parameters by layer type are not supported; Bamba has one set for all layers");
  }
  const theta = fields?.has("rope_theta")
    ? fields.number("rope_theta", 0, positive)
    : top.has("rope_theta")
      ? top.number("rope_theta", 0, positive)
      : 10_000;
  const partialRotaryFactor = fields?.has("partial_rotary_factor") ? fields.number("partial_rotary_factor", 0, { above: 0, max: 1 }) : 0.5;
  const rotaryDim = Math.trunc(context.headDim * partialRotaryFactor);
  if (context.used && (rotaryDim < 2 || rotaryDim % 2 !== 0)) {
    throw (fields ?? top).error(
      "partial_rotary_factor",
      `${partialRotaryFactor} of a head of ${context.headDim} are ${rotaryDim} dimensions; rotation pairs them, so they must be even and at least 2`,
    );
  }
  warnOfOtherReaders(top, partialRotaryFactor, rotaryDim, context);
  const base = { theta, partialRotaryFactor };
  return { rope: fields === undefined ? { ...base, type: "default" } : parseType(fields, top, base, rotaryDim, context), rotaryDim };
}

/** Two fields that other programs honour and Transformers, which we follow, does not (spec a.3). */
function warnOfOtherReaders(top: Fields, factor: number, rotaryDim: number, { used, warnings }: RopeContext): void {
  if (!used) return;
  const dims = top.raw("attn_rotary_emb");
  if (typeof dims === "number" && dims !== rotaryDim) {
    warnings.push(`attn_rotary_emb is ${dims}, but ${rotaryDim} dimensions of each head are rotated: it is ignored, as in Transformers`);
  }
  const share = top.raw("partial_rotary_factor");
  if (typeof share === "number" && share !== factor) {
    warnings.push(
      `partial_rotary_factor ${share} at the top level is ignored, as in Transformers; ${factor} is used (set it in rope_parameters)`,
    );
  }
}

function parseType(fields: Fields, top: Fields, base: RopeBase, rotaryDim: number, context: RopeContext): RopeConfig {
  const name = fields.has("rope_type") ? "rope_type" : "type";
  const type = fields.has(name) ? fields.string(name, "default") : "default";
  if (!isRopeType(type)) throw fields.error(name, `${describe(type)} is not supported; supported are ${ropeTypes.join(", ")}`);
  const { maxPositionEmbeddings: positions } = context;
  // Phi-3's habit, which Transformers gives priority: the field at the top level.
  const holder = top.has("original_max_position_embeddings") ? top : fields;
  const original = holder.has("original_max_position_embeddings") ? holder.size("original_max_position_embeddings", 0) : positions;
  const needed = (field: string): number => {
    if (!fields.has(field)) throw fields.error(field, `is missing; rope type ${type} needs it`);
    return fields.number(field, 0, positive);
  };
  switch (type) {
    case "default":
      return { ...base, type };
    case "linear":
      return { ...base, type, factor: needed("factor") };
    case "dynamic":
      if (rotaryDim <= 2 && context.used) throw fields.error(name, `dynamic needs more than 2 rotated dimensions, got ${rotaryDim}`);
      return { ...base, type, factor: needed("factor"), originalMaxPositions: positions };
    case "llama3": {
      const lowFrequencyFactor = needed("low_freq_factor");
      const highFrequencyFactor = needed("high_freq_factor");
      if (highFrequencyFactor <= lowFrequencyFactor) {
        throw fields.error("high_freq_factor", `${highFrequencyFactor} must be above low_freq_factor ${lowFrequencyFactor}`);
      }
      return { ...base, type, factor: needed("factor"), originalMaxPositions: original, lowFrequencyFactor, highFrequencyFactor };
    }
    case "yarn":
      return parseYarn(fields, base, original, context);
    case "longrope": {
      const factor = fields.has("factor") ? needed("factor") : positions / original;
      const attentionFactor = fields.has("attention_factor")
        ? needed("attention_factor")
        : factor <= 1
          ? 1
          : Math.sqrt(1 + Math.log(factor) / Math.log(original));
      if (!Number.isFinite(attentionFactor))
        throw fields.error("original_max_position_embeddings", `${original} is too small for longrope`);
      const lists = (["short_factor", "long_factor"] as const).map((field) => {
        const list = fields.numbers(field, positive, context.used ? rotaryDim / 2 : undefined);
        if (list === undefined) throw fields.error(field, "is missing; rope type longrope needs it");
        return list;
      });
      return { ...base, type, factor, originalMaxPositions: original, attentionFactor, shortFactor: lists[0]!, longFactor: lists[1]! };
    }
  }
}

function isRopeType(type: string): type is RopeType {
  return (ropeTypes as readonly string[]).includes(type);
}

function parseYarn(fields: Fields, base: RopeBase, original: number, context: RopeContext): RopeConfig {
  if (base.theta <= 1) throw fields.error("rope_theta", `yarn needs a rope_theta above 1, got ${base.theta}`);
  const ratio = context.maxPositionEmbeddings / original;
  // Present and null means "the ratio of the contexts"; missing altogether is an error, as in Transformers.
  if (fields.raw("factor") === undefined) throw fields.error("factor", "is missing; rope type yarn needs it");
  const factor = fields.has("factor") ? fields.number("factor", 0, positive) : ratio;
  if (ratio !== factor && ratio !== 1) {
    context.warnings.push(
      `rope factor ${factor} is not max_position_embeddings / original_max_position_embeddings (${ratio}); the factor is used, as in Transformers`,
    );
  }
  // Zero and null mean "not given" here, as in Transformers.
  const optional = (field: string, fallback: number): number =>
    fields.has(field) ? fields.number(field, 0, { min: 0, max: Number.MAX_VALUE }) || fallback : fallback;
  const scaling = (weight: number): number => (factor <= 1 ? 1 : 0.1 * weight * Math.log(factor) + 1);
  const mscale = optional("mscale", 0);
  const mscaleAllDim = optional("mscale_all_dim", 0);
  const attentionFactor = fields.has("attention_factor")
    ? fields.number("attention_factor", 0, positive)
    : mscale !== 0 && mscaleAllDim !== 0
      ? scaling(mscale) / scaling(mscaleAllDim)
      : scaling(1);
  return {
    ...base,
    type: "yarn",
    factor,
    originalMaxPositions: original,
    attentionFactor,
    betaFast: optional("beta_fast", 32),
    betaSlow: optional("beta_slow", 1),
    truncate: fields.boolean("truncate", true),
  };
}

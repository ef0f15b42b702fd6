import { ConfigError } from "./config-error.ts";
import { describe, isJsonObject } from "./json.ts";
import type { JsonObject } from "./json.ts";

/** The largest size that 32-bit indices of a kernel can count. */
const largest = 2 ** 31 - 1;

/** What a number may be: integers only or not, and its bounds (included unless `above` is given). */
interface NumberRule {
  readonly integer?: boolean;
  readonly min?: number;
  readonly above?: number;
  readonly max?: number;
}

/**
 * The fields of one JSON object, read by kind. Every error names the file and the field, what is expected and what is there.
 * A missing field takes its default; `null` is a value like any other, and wrong where the field has no meaning for it.
 */
export class Fields {
  private readonly values: JsonObject;
  private readonly where: string;
  private readonly path: string;

  /** @param where the file; @param path the fields that lead to this object, as "rope_parameters." */
  constructor(values: JsonObject, where: string, path = "") {
    this.values = values;
    this.where = where;
    this.path = path;
  }

  /** Whether the field is there and not null. */
  has(name: string): boolean {
    return this.raw(name) !== undefined && this.raw(name) !== null;
  }

  raw(name: string): unknown {
    // An own property only: no field may be found on Object.prototype.
    return Object.hasOwn(this.values, name) ? this.values[name] : undefined;
  }

  /** The error of a field; also for relations between fields, with `name` the one to mend first. */
  error(name: string, message: string, hint?: string): ConfigError {
    return new ConfigError(`${this.where}: ${this.path}${name}: ${message}`, hint === undefined ? {} : { hint });
  }

  private expected(name: string, what: string): ConfigError {
    return this.error(name, `expected ${what}, got ${describe(this.raw(name))}`);
  }

  /** A size or count: an integer from 1 (or `min`) to 2^31 - 1. */
  size(name: string, fallback: number, min = 1): number {
    return this.number(name, fallback, { integer: true, min, max: largest });
  }

  /** As `size`, where null has a meaning and becomes `fallback` too. */
  sizeOrNull<T>(name: string, fallback: number, whenNull: T, min = 1): number | T {
    return this.raw(name) === null ? whenNull : this.size(name, fallback, min);
  }

  number(name: string, fallback: number, rule: NumberRule = {}): number {
    const raw = this.raw(name);
    if (raw === undefined) return fallback;
    const value = toNumber(raw);
    if (value === undefined || !follows(value, rule)) throw this.expected(name, ruleText(rule));
    return value;
  }

  boolean(name: string, fallback: boolean): boolean {
    const raw = this.raw(name);
    if (raw === undefined) return fallback;
    if (typeof raw !== "boolean") throw this.expected(name, "true or false");
    return raw;
  }

  string(name: string, fallback: string): string {
    const raw = this.raw(name);
    if (raw === undefined) return fallback;
    if (typeof raw !== "string") throw this.expected(name, "a string");
    return raw;
  }

  /** A list of numbers that follow `rule`, or undefined when the field is missing or null. */
  numbers(name: string, rule: NumberRule, length?: number): readonly number[] | undefined {
    const raw = this.raw(name);
    if (raw === undefined || raw === null) return undefined;
    const values = Array.isArray(raw) ? raw.map(toNumber) : [undefined];
    if (
      !values.every((value): value is number => value !== undefined && follows(value, rule)) ||
      (length ?? values.length) !== values.length
    ) {
      throw this.expected(name, `a list of ${length === undefined ? "" : `${length} `}values, each ${ruleText(rule)}`);
    }
    return values;
  }

  /** The fields of an object inside this one, or undefined when it is missing or null. */
  object(name: string): Fields | undefined {
    const raw = this.raw(name);
    if (raw === undefined || raw === null) return undefined;
    if (!isJsonObject(raw)) throw this.expected(name, "an object");
    return new Fields(raw, this.where, `${this.path}${name}.`);
  }

  get isEmpty(): boolean {
    return Object.keys(this.values).length === 0;
  }
}

/** A JSON number, or the object form of the three that JSON does not have (spec bamba a.1, time_step_limit). */
function toNumber(raw: unknown): number | undefined {
  if (typeof raw === "number") return raw;
  if (!isJsonObject(raw) || Object.keys(raw).length !== 1) return undefined;
  switch (raw["__float__"]) {
    case "Infinity":
      return Infinity;
    case "-Infinity":
      return -Infinity;
    case "NaN":
      return NaN;
    default:
      return undefined;
  }
}

function follows(value: number, { integer, min, above, max }: NumberRule): boolean {
  if (Number.isNaN(value) || (integer === true && !Number.isSafeInteger(value))) return false;
  return value >= (min ?? -Infinity) && value <= (max ?? Infinity) && (above === undefined || value > above);
}

function ruleText({ integer, min, above, max }: NumberRule): string {
  const kind = integer === true ? "an integer" : "a number";
  const low = above !== undefined ? ` above ${above}` : min !== undefined ? ` from ${min}` : "";
  const high = max === undefined ? "" : max === Number.MAX_VALUE ? ", finite" : ` to ${max}`;
  return `${kind}${low}${high}`;
}

import { shown, UserError } from "../errors.ts";

/** Gives a value back with its type once it is known to be right. @throws UserError that begins with `field`. */
export type Check<T> = (value: unknown, field: string) => T;

interface Range {
  readonly min?: number;
  /** As `min`, but not itself allowed. */
  readonly above?: number;
  readonly max?: number;
  /** As `max`, but not itself allowed. */
  readonly below?: number;
}

/** An upper bound from here on is not worth a word. */
const unsaid = 2 ** 31;

function between({ min, above, max, below }: Range): string {
  const low = above !== undefined ? ` above ${above}` : min !== undefined ? ` from ${min}` : "";
  if (below !== undefined) return `${low} and below ${below}`;
  if (max === undefined || max >= unsaid) return low;
  return above === undefined ? `${low} to ${max}` : `${low} and at most ${max}`;
}

function checkNumber(value: unknown, field: string, range: Range, kind: string, hint: string | undefined): number {
  const { min = -Number.MAX_VALUE, max = Number.MAX_VALUE, above = -Infinity, below = Infinity } = range;
  const whole = kind !== "an integer" || Number.isSafeInteger(value);
  if (typeof value === "number" && whole && value >= min && value <= max && value > above && value < below) return value;
  const got = typeof value === "number" ? String(value) : shown(value);
  throw new UserError(`${field}: expected ${kind}${between(range)}, got ${got}`, hint === undefined ? {} : { hint });
}

/** A finite number. */
export const numberIn =
  (range: Range = {}, hint?: string): Check<number> =>
  (value, field) =>
    checkNumber(value, field, range, "a number", hint);

export const integerIn =
  (range: Range): Check<number> =>
  (value, field) =>
    checkNumber(value, field, range, "an integer", undefined);

/** A whole number of things: at least 1, exact in arithmetic. */
export const count = integerIn({ min: 1, max: Number.MAX_SAFE_INTEGER });
export const tokenId = integerIn({ min: 0, max: 2 ** 31 - 1 });

export const boolean: Check<boolean> = (value, field) => {
  if (typeof value !== "boolean") throw new UserError(`${field}: expected true or false, got ${shown(value)}`);
  return value;
};

export const listOf =
  <T>(item: Check<T>): Check<readonly T[]> =>
  (value, field) => {
    if (!Array.isArray(value)) throw new UserError(`${field}: expected a list, got ${shown(value)}`);
    return value.map((element, i) => item(element, `${field}[${i}]`));
  };

export const nonEmpty =
  <T>(list: Check<readonly T[]>): Check<readonly T[]> =>
  (value, field) => {
    const checked = list(value, field);
    if (checked.length === 0) throw new UserError(`${field}: expected at least one element, got none`);
    return checked;
  };

/** One, or a list of them. */
export const oneOrMore =
  <T>(item: Check<T>): Check<readonly T[]> =>
  (value, field) =>
    Array.isArray(value) ? listOf(item)(value, field) : [item(value, field)];

/** Numbers in any indexable form, as prompts are given. */
export const numbers =
  (item: Check<number>): Check<readonly number[]> =>
  (value, field) =>
    listOf(item)(ArrayBuffer.isView(value) ? Array.from(value as Int32Array) : value, field);

/** An array of exactly two. */
export const pairOf =
  <A, B>(first: Check<A>, second: Check<B>): Check<readonly [A, B]> =>
  (value, field) => {
    if (!Array.isArray(value) || value.length !== 2) throw new UserError(`${field}: expected a pair, got ${shown(value)}`);
    return [first(value[0], `${field}[0]`), second(value[1], `${field}[1]`)];
  };

export const func =
  <T>(): Check<T> =>
  (value, field) => {
    if (typeof value !== "function") throw new UserError(`${field}: expected a function, got ${shown(value)}`);
    return value as T;
  };

/** An object that has a method of this name. */
export const objectWith =
  <T>(method: string): Check<T> =>
  (value, field) => {
    const object = value as Readonly<Record<string, unknown>> | null | undefined;
    if (typeof object !== "object" || object === null || typeof object[method] !== "function")
      throw new UserError(`${field}: expected an object with a method ${method}, got ${shown(value)}`);
    return value as T;
  };

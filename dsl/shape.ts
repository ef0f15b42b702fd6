import type { Dim } from "./types.ts";

/** The rules of types.ts at run time, for tensors whose axes the checker does not know. Each gives null where its type gives `never`. */
type Axes = readonly Dim[];

/** "[batch, seq, hidden]", the text of the type `Show`. */
export const show = (axes: Axes): string => `[${axes.join(", ")}]`;

export const same = (a: Axes, b: Axes): boolean => a.length === b.length && a.every((x, i) => x === b[i]);

export function broadcast(a: Axes, b: Axes): Dim[] | null {
  const out: Dim[] = [];
  for (let i = 1; i <= Math.max(a.length, b.length); i++) {
    const x = a[a.length - i] ?? 1;
    const y = b[b.length - i] ?? 1;
    if (x !== y && x !== 1 && y !== 1) return null;
    out.unshift(x === 1 ? y : x);
  }
  return out;
}

export function matMul(a: Axes, b: Axes): Dim[] | null {
  const [inner, columns] = b.slice(-2);
  if (b.length < 2 || a.length < 1 || columns === undefined || a.at(-1) !== inner) return null;
  if (b.length === 2) return [...a.slice(0, -1), columns];
  if (a.length < 2) return null;
  const lead = broadcast(a.slice(0, -2), b.slice(0, -2));
  return lead && [...lead, a.at(-2)!, columns];
}

const factors = (axes: Axes): string[] => axes.flatMap((a) => (typeof a === "string" ? a.split("*") : [])).sort();
export const sameFactors = (a: Axes, b: Axes): boolean => same(factors(a), factors(b));

export const isOrderOf = (a: Axes, b: Axes): boolean => same([...a].map(String).sort(), [...b].map(String).sort());

export function replace(axes: Axes, axis: Dim, by: Axes): Dim[] {
  const i = axes.indexOf(axis);
  return [...axes.slice(0, i), ...by, ...axes.slice(i + 1)];
}

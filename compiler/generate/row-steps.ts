import type { DType } from "../ir/dtype.ts";
import { intVar, variable } from "../ir/expr.ts";
import type { ReduceFn } from "../ir/tile.ts";
import type { RowProblem, RowStep } from "../template.ts";

/** Which step of a row kernel asks for which. */

/** Stand-ins for `row` and `col` when an expression is only looked at. */
export const PROBE = [intVar("row"), intVar("col")] as const;

export type Reduction = RowStep & { readonly kind: ReduceFn };

export const reductionsOf = (p: RowProblem): Reduction[] => p.steps.filter((s): s is Reduction => s.kind !== "temp");

export const stepOf = (p: RowProblem, name: string): RowStep => {
  const step = p.steps.find((s) => s.name === name);
  if (!step) throw new Error(`rows ${p.frame.name}: there is no step called ${name}`);
  return step;
};

/** A step or a store. */
export type Consumer = Pick<RowStep, "value">;
const asked = new WeakMap<Consumer, ReturnType<typeof asks>>();

/** The steps that `consumer` asks for itself, and its value's dtype. What it computes with them is of no interest here. */
export function asks(p: RowProblem, consumer: Consumer): { readonly names: ReadonlySet<string>; readonly dtype: DType } {
  const known = asked.get(consumer);
  if (known) return known;
  const names = new Set<string>();
  const { dtype } = consumer.value(...PROBE, (name) => {
    names.add(name);
    return variable(name, asks(p, stepOf(p, name)).dtype);
  });
  asked.set(consumer, { names, dtype });
  return { names, dtype };
}

/** How many steps and stores ask for each step. */
export function countUsers(p: RowProblem): Map<string, number> {
  const users = new Map<string, number>();
  for (const consumer of [...p.steps, ...p.stores]) for (const name of asks(p, consumer).names) users.set(name, (users.get(name) ?? 0) + 1);
  return users;
}

/** How many steps have a tile each: those that more than one asks for, and what is reduced. */
export function tilesOf(p: RowProblem): number {
  const users = countUsers(p);
  return p.steps.filter(({ kind, name }) => kind !== "temp" || (users.get(name) ?? 0) > 1).length;
}

/** Everything that `consumer` needs, directly or through temps, in the order of the steps; reductions are named but not looked through. */
export function needs(p: RowProblem, consumer: Consumer): RowStep[] {
  const found = new Set<string>();
  const visit = (c: Consumer): void => {
    for (const name of asks(p, c).names) {
      if (found.has(name)) continue;
      found.add(name);
      const step = stepOf(p, name);
      if (step.kind === "temp") visit(step);
    }
  };
  visit(consumer);
  return p.steps.filter((s) => found.has(s.name));
}

/** Reductions that can share a walk over the columns: none needs another's result. */
export function passes(p: RowProblem): Reduction[][] {
  const groups: Reduction[][] = [];
  for (const step of reductionsOf(p)) {
    const last = groups.at(-1);
    const before = needs(p, step);
    if (last && !last.some((other) => before.includes(other))) last.push(step);
    else groups.push([step]);
  }
  return groups;
}

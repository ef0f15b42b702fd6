import { add, and, eq, i32, idiv, lt, mod, mul, select } from "../ir/expr.ts";
import type { Expr } from "../ir/expr.ts";
import { at, tileBuilder } from "../ir/tile-builder.ts";
import type { TileProgram } from "../ir/tile.ts";
import type { Config, ReplayProblem, Template } from "../template.ts";
import { clamp, guarded } from "./common.ts";
import { decayOf, elementOf, entries } from "./ssd-replay-common.ts";
import type { StepConfig } from "./ssd-step.ts";
import { stateRows } from "./ssd-step.ts";

/**
 * One position of the state-space recurrence that reads the state and does not store it: of the scan's matrix form over the inputs in a ring and this one, the last row.
 * With e[j] = exp(A sum of dt after entry j), y = exp(A sum of dt) S C + sum over j of (C . B[j]) e[j] dt[j] x[j] + D x. The state is loaded first, as in `ssd-step`, and a block
 * computes the weights of its head's entries while it is on its way. The block that fills the ring stores S = exp(A sum of dt) S + sum over j of e[j] dt[j] x[j] B[j]^T.
 */
export const ssdReplay: Template<ReplayProblem> = { name: "ssd-replay", configs: stateRows, build };

function build(p: ReplayProblem, config: Config): TileProgram {
  const { pb, groups } = config as StepConfig;
  const { length, held, ring } = p;
  const b = tileBuilder(p.frame, [Math.ceil(p.headDim / pb), p.heads, p.batch], [groups, 1]);
  const [part, head, batch, t] = [b.bx, b.by, b.bz, i32(0)];
  const members = p.heads / p.groups;
  const group = idiv(head, members);
  const dim = (row: Expr): Expr => add(mul(part, pb), row);
  const inside = (row: Expr): Expr => lt(dim(row), p.headDim);
  const own = {
    x: (row: Expr): Expr => p.x(batch, t, head, clamp(dim(row), p.headDim)),
    B: (n: Expr): Expr => p.B(batch, t, group, n),
    dt: p.dt(batch, t, head),
  };
  const entry = {
    x: (j: Expr, row: Expr): Expr => elementOf(ring.x, batch, j, head, clamp(dim(row), p.headDim)),
    B: (j: Expr, n: Expr): Expr => elementOf(ring.B, batch, j, group, n),
  };
  const there = (j: Expr): Expr => lt(j, held);

  const state = b.frag("state", pb, p.stateSize);
  b.map(state, (row, n) => guarded(elementOf(p.state, batch, head, dim(row), n), inside(row)));

  // of entry j in row j, with this input as number `held` and 0 from there on
  const products = b.frag("products", length, p.stateSize);
  b.map(products, (j, n) => mul(select(eq(j, held), own.B(n), guarded(entry.B(j, n), there(j))), p.C(batch, t, group, n)));
  const matches = b.frag("matches", length, 1);
  b.rowReduce(matches, "sum", products);
  const scores = b.shared("scores", length, 1);
  b.stage(scores, matches);
  const steps = b.shared("steps", length, 1);
  b.load(steps, (j) => select(eq(j, held), own.dt, guarded(elementOf(ring.dt, batch, j, head), there(j))));
  // row 0 is the state's, row j + 1 that of entry j
  const decays = b.shared("decays", length + 1, 1);
  b.load(decays, (row) => decayOf(p, (j) => at(steps, j, 0), row, head));

  const read = b.frag("read", pb, p.stateSize);
  b.map(read, (row, n) => mul(at(state, row, n), p.C(batch, t, group, n)));
  const sums = b.frag("sums", pb, 1);
  b.rowReduce(sums, "sum", read);
  // each row's result in a lane of its own: inputs of neighbouring rows are neighbours in memory
  const y = b.shared("y", pb, 1);
  b.stage(y, sums);
  const weight = (j: Expr): Expr => mul(at(scores, j, 0), at(decays, add(j, 1), 0));
  const replayed = (row: Expr): Expr =>
    entries(length - 1)
      .map((j) => mul(weight(j), guarded(entry.x(j, row), and(there(j), inside(row)))))
      .reduce((sum, term) => add(sum, term), mul(at(decays, 0, 0), at(y, row, 0)));
  for (const out of p.outs)
    b.store(y, {
      buffer: out.buffer,
      dtype: out.dtype,
      index: (row) => out.index(batch, t, head, dim(row)),
      value: (row) => out.value([add(replayed(row), mul(add(weight(held), p.D(head)), own.x(row)))], batch, t, head, dim(row)),
      guard: inside,
    });

  // this input's place in the ring: x is each row's own, dt a head's, B a group's
  b.store(y, {
    buffer: ring.x.buffer,
    dtype: ring.x.dtype,
    index: (row) => ring.x.index(batch, held, head, dim(row)),
    value: own.x,
    guard: inside,
  });
  const isOwn = (j: Expr): Expr => eq(j, held);
  b.when(eq(part, 0), () => {
    const index = (): Expr => ring.dt.index(batch, held, head);
    b.store(steps, { buffer: ring.dt.buffer, dtype: ring.dt.dtype, index, value: (j) => at(steps, j, 0), guard: isOwn });
  });
  b.when(and(eq(part, 0), eq(mod(head, members), 0)), () => {
    const index = (_: Expr, n: Expr): Expr => ring.B.index(batch, held, group, n);
    b.store(products, { buffer: ring.B.buffer, dtype: ring.B.dtype, index, value: (_, n) => own.B(n), guard: isOwn });
  });

  b.when(eq(held, length - 1), () => {
    b.map(state, (row, n) => mul(at(state, row, n), at(decays, 0, 0)));
    const take = (j: Expr, x: (row: Expr) => Expr, B: (n: Expr) => Expr): void =>
      b.map(state, (row, n) => add(at(state, row, n), mul(mul(at(decays, add(j, 1), 0), x(row)), B(n))));
    b.loop("j", length - 1, (j) => {
      take(
        j,
        (row) => entry.x(j, row),
        (n) => entry.B(j, n),
      );
    });
    take(i32(length - 1), own.x, own.B);
    b.store(state, {
      buffer: p.state.buffer,
      dtype: p.state.dtype,
      index: (row, n) => p.state.index(batch, head, dim(row), n),
      value: (row, n) => at(state, row, n),
      guard: inside,
    });
  });
  return b.build();
}

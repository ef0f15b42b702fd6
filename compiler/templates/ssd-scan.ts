import type { Caps } from "../backend.ts";
import { abs, add, and, cast, ceilDiv, eq, exp, i32, idiv, le, load, lt, min, mul, ne, select, sub } from "../ir/expr.ts";
import type { Expr, Operand } from "../ir/expr.ts";
import { at, tileBuilder, viewOf } from "../ir/tile-builder.ts";
import type { TileProgram } from "../ir/tile.ts";
import type { Config, Reject, SsdProblem, Template } from "../template.ts";
import {
  bytesOf,
  clamp,
  guarded,
  isVector,
  largest,
  leastUnit,
  mostRegisters,
  operandBytes,
  roundUp,
  stageType,
  unitOf,
  withinRegisters,
} from "./common.ts";

/**
 * The chunked state-space scan (spec/ssd.md section 2). A block owns one head of one row of the batch, and `pb` of its head's dimensions; it walks
 * over the sequence in chunks of `q` tokens and carries the state, transposed to [N, P], in a fragment. Per chunk, with s the running sum of dt * A:
 *
 *   G[i, j] = C_i . B_j * exp(s_i - s_j) * dt_j  for j <= i        Y = exp(s_i) * (C S) + G X        S = exp(s_last) * S + B^T (exp(s_last - s) * dt * X)
 *
 * The result does not depend on the chunk size, so `q` is chosen for the target: the part quadratic in it is a small share at 64. A short last
 * chunk is filled up with dt = 0 and x = 0, which changes nothing. Differences of s are held at 0 from above before exp, because rounding may
 * lift them over it.
 *
 * With sequence ids the terms whose two positions are of different sequences are dropped, by comparing ids: a large negative number in s would reset the
 * state too, but take the digits of all later differences with it. A sequence is one run of positions, so when the first and the last of some
 * positions are of one sequence, all are. Padding has dt = 0.
 */
export const ssdScan: Template<SsdProblem> = { name: "ssd-scan", configs, build };

interface SsdConfig extends Config {
  readonly q: number;
  readonly pb: number;
  readonly groups: number;
  /** Slices of the state dimension that are staged one after another, where shared memory has no room for all of B and C. */
  readonly slices: number;
}

function configs(p: SsdProblem, caps: Caps): readonly SsdConfig[] | Reject {
  const unit = leastUnit(caps);
  const seq = largest(p.seq, 1 << 20);
  const quantum = Math.max(unit.m, unit.n, unit.k);
  const fits = (c: SsdConfig): boolean =>
    c.q % (unit.m * c.groups) === 0 &&
    stateRows(p, caps) % (unit.m * c.groups * c.slices) === 0 &&
    (stateRows(p, caps) / c.slices) % unit.k === 0 &&
    c.groups * caps.lanes <= caps.maxThreads &&
    sharedBytes(p, c, caps) <= caps.sharedBytes;
  if (isVector(caps)) {
    const whole = roundUp(p.headDim, unit.n);
    return [64, 32, 128].map((q) => ({ q: Math.min(q, roundUp(seq, quantum)), pb: whole, groups: 1, slices: 1 })).filter(fits);
  }
  const found: { readonly config: SsdConfig; readonly registers: number }[] = [];
  const most = mostRegisters(caps, 192);
  for (const [slices, q] of [
    [1, 64],
    [1, 32],
    [1, 16],
    [2, 32],
    [2, 16],
    [4, 32],
    [4, 16],
    [8, 16],
    [16, 16],
    [16, 8],
  ] as const)
    // prettier-ignore
    for (const pb of [64, 32, 16, 8])
      for (const groups of [4, 2, 1]) {
        if (slices > 1 && found.length > 0) continue;
        const c = { q: Math.min(q, roundUp(seq, quantum)), pb: roundUp(Math.min(pb, p.headDim), unit.n), groups, slices };
        const registers = ((roundUp(p.stateSize, unit.m) + c.q) * c.pb + c.q * c.q) / (groups * caps.lanes);
        if (c.q % quantum === 0 && registers <= Math.max(most, 96) && fits(c)) found.push({ config: c, registers });
      }
  const chosen = withinRegisters(found, most).map((f) => f.config);
  return chosen.length > 0
    ? chosen
    : { reject: `no chunk of a scan with state size ${p.stateSize} fits the shared memory of ${caps.name}` };
}

function sharedBytes(p: SsdProblem, { q, pb, slices }: SsdConfig, caps: Caps): number {
  const n = stateRows(p, caps) / slices;
  const dtype = stageType(unitOf(caps), "f32");
  const bytes = (rows: number, cols: number): number => operandBytes(rows, cols, dtype, caps);
  const views = bytes(q, n) * 2 + (isVector(caps) ? bytes(n, q) : 0) + bytes(q, q) + bytes(q, pb) * 2 + bytes(n, pb);
  return views + bytesOf(q, 1, "f32") * 2 + bytesOf(q + 1, 1, "i32");
}

/** The state's rows, filled up so that it can be an accumulator and an inner dimension of the unit. */
const stateRows = (p: SsdProblem, caps: Caps): number => roundUp(p.stateSize, Math.max(leastUnit(caps).m, leastUnit(caps).k));

function build(p: SsdProblem, config: Config, caps: Caps): TileProgram {
  const { q, pb, groups, slices } = config as SsdConfig;
  const unit = unitOf(caps);
  const vector = isVector(caps);
  const n = stateRows(p, caps) / slices;
  const dtype = stageType(unit, "f32");
  const b = tileBuilder(p.frame, [p.heads, p.batch, Math.ceil(p.headDim / pb)], [groups, 1]);
  const head = b.bx;
  const row = b.by;
  const group = idiv(head, p.heads / p.groups);
  const dimOf = (col: Expr): Expr => add(mul(b.bz, pb), col);

  const dt = b.shared("dt", q, 1);
  const s = b.shared("s", q, 1);
  // the sequence of the position before the chunk, then those of the chunk's own
  const sequences = p.ids ? b.shared("sequences", q + 1, 1, "i32") : null;
  const x = b.shared("x", q, pb, dtype);
  const weighted = b.shared("xw", q, pb, dtype);
  const B = b.shared("B", q, n, dtype);
  const C = b.shared("C", q, n, dtype);
  // the vector unit reads adjacent columns of its right operand, so B is staged a second time, turned
  const Bt = vector ? b.shared("Bt", n, q, dtype) : null;
  const gates = b.shared("g", q, q, dtype);
  const entering = b.shared("h", n, pb, dtype);
  // one fragment a slice of the state's rows; the tiles B, C and h hold one slice at a time
  const states = Array.from({ length: slices }, (_, i) => b.frag(slices === 1 ? "S" : `S${i}`, n, pb));
  const scores = b.frag("G", q, q);
  const y = b.frag("Y", q, pb);

  const inState = (r: Expr, c: Expr): Expr => and(lt(r, p.stateSize), lt(dimOf(c), p.headDim));
  const stateAt = (r: Expr, c: Expr): Expr => p.state.index(row, head, dimOf(c), r);
  states.forEach((state, i) => {
    b.map(state, (r, c) => {
      const at = add(r, i * n);
      return cast(load(p.state.buffer, p.state.dtype, stateAt(at, c), inState(at, c)), "f32");
    });
  });

  /** `value` where positions i and j of a chunk, of which -1 is the one before it, are of one sequence; 0 elsewhere. */
  const together = (i: Operand, j: Operand, value: Expr): Expr =>
    sequences ? select(eq(at(sequences, add(i, 1), 0), at(sequences, add(j, 1), 0)), value, 0) : value;
  /** `value`, unless position r of the chunk is padding: its dt of 0 does not silence a NaN. */
  const unlessPadding = (r: Expr, value: Expr): Expr => (sequences ? select(ne(at(dt, r, 0), 0), value, 0) : value);

  b.loop("chunk", ceilDiv(p.seq, q), (chunk) => {
    const t0 = mul(chunk, q);
    const valid = min(sub(p.seq, t0), q);
    const time = (r: Expr): Expr => clamp(add(t0, r), p.seq);
    // a unit that takes several k at once multiplies the zeros that fill up the chunk
    const depth = unit.k > 1 ? i32(q) : valid;
    const last = at(s, q - 1, 0);

    if (sequences) b.load(sequences, (r) => abs(p.ids!(row, clamp(add(t0, sub(r, 1)), p.seq))));
    b.load(dt, (r) => {
      const step = guarded(p.dt(row, time(r), head), lt(r, valid));
      return p.ids ? select(lt(0, p.ids(row, time(r))), step, 0) : step;
    });
    b.load(s, (r) => mul(at(dt, r, 0), p.decay(head)));
    b.scan(s);
    b.load(x, (r, c) => unlessPadding(r, guarded(p.x(row, time(r), head, dimOf(c)), and(lt(r, valid), lt(dimOf(c), p.headDim)))));
    const inSlice = (r: Expr, c: Expr): Expr => and(lt(r, valid), lt(c, p.stateSize));
    const loadB = (i: number): void => {
      b.load(B, (r, c) => unlessPadding(r, guarded(p.B(row, time(r), group, add(c, i * n)), inSlice(r, add(c, i * n)))));
    };
    const enter = (): void => b.mma(y, viewOf(C), viewOf(entering), n, valid);
    if (slices > 1) b.fill(y, 0);
    states.forEach((state, i) => {
      loadB(i);
      b.load(C, (r, c) => guarded(p.C(row, time(r), group, add(c, i * n)), inSlice(r, add(c, i * n))));
      if (Bt) b.load(Bt, (r, c) => at(B, c, r));
      b.stage(entering, state);
      if (i === 0) b.fill(scores, 0);
      b.mma(scores, viewOf(C), Bt ? viewOf(Bt) : viewOf(B, { transposed: true }), n, valid);
      if (slices > 1) enter();
    });
    b.map(scores, (i, j) => {
      const decay = exp(min(sub(at(s, i, 0), at(s, j, 0)), 0));
      return select(le(j, i), together(i, j, mul(mul(at(scores, i, j), decay), at(dt, j, 0))), 0);
    });
    b.stage(gates, scores);

    if (slices === 1) {
      b.fill(y, 0);
      enter();
    }
    b.map(y, (i, c) => together(i, -1, mul(at(y, i, c), exp(at(s, i, 0)))));
    b.mma(y, viewOf(gates), viewOf(x), depth, valid);
    for (const out of p.outs) {
      const coords = (i: Expr, c: Expr): [Expr, Expr, Expr, Expr] => [row, add(t0, i), head, dimOf(c)];
      const inside = (i: Expr, c: Expr): Expr => and(lt(i, valid), lt(dimOf(c), p.headDim));
      b.store(y, {
        buffer: out.buffer,
        dtype: out.dtype,
        index: (i, c) => out.index(...coords(i, c)),
        value: (i, c) => {
          const skip = mul(p.D(head), p.x(row, time(i), head, dimOf(c)));
          return guarded(out.value([add(at(y, i, c), skip)], row, time(i), head, dimOf(c)), inside(i, c));
        },
        guard: inside,
      });
    }

    b.load(weighted, (r, c) => together(r, q - 1, mul(at(x, r, c), mul(at(dt, r, 0), exp(min(sub(last, at(s, r, 0)), 0))))));
    states.forEach((state, i) => {
      if (slices > 1) loadB(i);
      b.map(state, (r, c) => together(-1, q - 1, mul(at(state, r, c), exp(last))));
      b.mma(state, viewOf(B, { transposed: true }), viewOf(weighted), depth);
    });
  });

  states.forEach((state, i) => {
    b.store(state, {
      buffer: p.state.buffer,
      dtype: p.state.dtype,
      index: (r, c) => stateAt(add(r, i * n), c),
      value: (r, c) => at(state, r, c),
      guard: (r, c) => inState(add(r, i * n), c),
    });
  });
  return b.build();
}

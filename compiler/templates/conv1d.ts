import type { Caps } from "../backend.ts";
import { abs, add, and, cast, ceilDiv, eq, i32, load, lt, max, mul, select, sub } from "../ir/expr.ts";
import type { Expr } from "../ir/expr.ts";
import { at, tileBuilder } from "../ir/tile-builder.ts";
import type { TileProgram } from "../ir/tile.ts";
import type { Config, ConvProblem, Reject, Template } from "../template.ts";
import { clamp, enoughBlocks, guarded, isVector, L1, laneRegisters, largest, roundUp, shareOut } from "./common.ts";

/**
 * Depthwise causal convolution with carried state. A block owns `cb` channels of one row of the batch, walks over time in tiles of `tt` steps,
 * and in the end replaces the state of its channels, which no other block reads. Lanes run along the channels, which are adjacent in memory.
 */
export const conv1d: Template<ConvProblem> = { name: "conv1d", configs, build };

interface ConvConfig extends Config {
  readonly tt: number;
  readonly cb: number;
  readonly groups: number;
}

function configs(p: ConvProblem, caps: Caps): readonly ConvConfig[] | Reject {
  const vector = isVector(caps);
  const seq = largest(p.seq, 1 << 20),
    batch = largest(p.batch, 1 << 10);
  const groups = vector || seq === 1 ? 1 : Math.min(4, Math.floor(caps.maxThreads / caps.lanes));
  // a tile's results stay in half of L1 beside the inputs that its taps share, or in the registers of the warps
  const registers = laneRegisters(caps, 16);
  const room = vector ? L1 / 2 / 4 : registers * caps.lanes * groups;
  const share = Math.ceil((p.channels * batch) / enoughBlocks(caps));
  const found = (vector ? [32, 64, 16] : [(registers / 2) * groups, (registers / 4) * groups, groups]).map((steps) => {
    // a tile must reach back no further than the tile before it
    const tt = roundUp(Math.max(p.width - 1, 1, Math.min(steps, seq)), groups);
    return { tt, cb: caps.lanes * shareOut(Math.ceil(p.channels / caps.lanes), Math.min(room / tt, share) / caps.lanes), groups };
  });
  return found.filter((c, i) => found.findIndex((d) => d.tt === c.tt && d.cb === c.cb) === i);
}

function build(p: ConvProblem, config: Config, _caps: Caps): TileProgram {
  const { tt, cb, groups } = config as ConvConfig;
  const b = tileBuilder(p.frame, [Math.ceil(p.channels / cb), p.batch, 1], [groups, 1]);
  const row = b.by;
  const channel = (col: Expr): Expr => add(mul(b.bx, cb), col);
  const there = (col: Expr): Expr => lt(channel(col), p.channels);
  const old = (k: Expr, c: Expr): Expr => cast(load(p.state.buffer, p.state.dtype, p.state.index(row, k, c)), "f32");

  /** The input at time `t`, which may lie before the sequence: state[width + t] then. Both sides are read, at places that exist. */
  const input = (t: Expr, c: Expr): Expr => select(lt(t, 0), old(clampWidth(add(t, p.width)), c), p.x(row, max(t, 0), c));
  /** `input`, or 0 where it is not a token of the sequence that position `reader` continues. What the state holds is all of one sequence. */
  const inputFor = (reader: Expr, t: Expr, c: Expr): Expr => {
    if (!p.sequences) return input(t, c);
    const { id } = p.sequences;
    const own = select(lt(t, 0), abs(id(row, i32(-1))), id(row, max(t, 0)));
    return select(eq(own, abs(id(row, reader))), input(t, c), 0);
  };
  const clampWidth = (k: Expr): Expr => max(clamp(k, p.width), 0);

  const y = b.frag("y", tt, cb);
  const tile = (t0: Expr): void => {
    b.map(y, (r, col) => {
      const t = clamp(add(t0, r), p.seq),
        c = channel(col);
      const taps = Array.from({ length: p.width }, (_, k) => mul(inputFor(t, sub(t, p.width - 1 - k), c), p.weight(c, k)));
      const sum = (p.bias ? [p.bias(c), ...taps] : taps).reduce((x, y) => add(x, y));
      return guarded(sum, there(col));
    });
    for (const out of p.outs)
      b.store(y, {
        buffer: out.buffer,
        dtype: out.dtype,
        index: (r, col) => out.index(row, add(t0, r), channel(col)),
        value: (r, col) => out.value([at(y, r, col)], row, add(t0, r), channel(col)),
        guard: (r, col) => and(lt(add(t0, r), p.seq), there(col)),
      });
  };
  // only the first tile can reach back into the state: apart, the others need no choice
  tile(i32(0));
  b.loop("i", sub(ceilDiv(p.seq, tt), 1), (i) => {
    tile(mul(add(i, 1), tt));
  });

  // an element of the new state may be another element of the old one: all are read before any is written
  const next = b.frag("state", roundUp(p.width, groups), cb);
  const end = p.sequences ? p.sequences.end(row) : p.seq;
  b.map(next, (k, col) => guarded(inputFor(sub(end, 1), add(sub(end, p.width), clamp(k, p.width)), channel(col)), there(col)));
  b.store(next, {
    buffer: p.state.buffer,
    dtype: p.state.dtype,
    index: (k, col) => p.state.index(row, k, channel(col)),
    value: (k, col) => at(next, k, col),
    guard: (k, col) => and(lt(k, p.width), there(col)),
  });
  return b.build();
}

import type { Caps } from "../backend.ts";
import { LARGEST_F32 } from "../ir/dtype.ts";
import { add, and, eq, exp, f32, i32, le, lt, max, min, mul, or, select, sub } from "../ir/expr.ts";
import type { Expr } from "../ir/expr.ts";
import { at, tileBuilder } from "../ir/tile-builder.ts";
import type { TileBuilder } from "../ir/tile-builder.ts";
import type { Tile, TileProgram } from "../ir/tile.ts";
import type { Config, Template, TokenProblem } from "../template.ts";
import type { Columns } from "./columns.ts";
import { columnWarps, columnsWidth, reduceColumns } from "./columns.ts";
import { guarded, isVector, roundUp } from "./common.ts";

/**
 * The next token of a row, by one block a row: the first index of the largest score, or the index that a draw falls on. That is found in levels: the row is
 * cut into `fan` parts, whose weights and running sums say in which of them the draw falls; this one is cut into `fan` parts in turn, until a part is one
 * score.
 */
export const sampleToken: Template<TokenProblem> = { name: "sample-token", configs, build };

interface TokenConfig extends Config {
  readonly width: number;
  readonly fan: number;
}

function configs(p: TokenProblem, caps: Caps): readonly TokenConfig[] {
  // a lane holds a partial sum of every part, in registers where they cannot be indexed
  const fans = isVector(caps) ? [64, 128, 32] : [16, 8];
  return fans.map((fan) => ({ fan, width: columnsWidth(caps, p.vocab, 4) }));
}

function build(p: TokenProblem, config: Config, caps: Caps): TileProgram {
  const { width, fan } = config as TokenConfig;
  const warps = columnWarps(caps, p.vocab);
  const b = tileBuilder(p.frame, [p.rows, 1, 1], [1, warps]);
  const columns: Columns = { b, count: p.vocab, width };
  const score = (column: Expr): Expr => p.scores(b.bx, column);
  const draw = p.draw(b.bx);

  // of NaN and infinity no distribution can be made; "not at most" is true of both
  const [top, wrong] = reduceColumns(columns, [
    { name: "top", fn: "max", dtype: "f32", value: (_, column) => score(column) },
    { name: "wrong", fn: "max", dtype: "i32", value: (_, column) => select(le(score(column), LARGEST_F32), i32(0), i32(1)) },
  ]) as [Tile, Tile];
  const token = b.frag("token", 1, 1, "i32");
  b.when(
    lt(draw, 0),
    () => {
      const isTop = (row: Expr, column: Expr): Expr => eq(score(column), at(top, row, 0));
      const [first] = reduceColumns(columns, [
        { name: "first", fn: "min", dtype: "i32", value: (row, column) => select(isTop(row, column), column, i32(p.vocab)) },
      ]) as [Tile];
      b.map(token, (row) => at(first, row, 0));
    },
    () => {
      drawToken(b, p, { draw, top, token, fan, lanes: warps * caps.lanes });
    },
  );
  for (const out of p.outs)
    b.store(token, {
      buffer: out.buffer,
      dtype: out.dtype,
      index: () => out.index(b.bx),
      value: (row) => {
        const invalid = or(lt(0, at(wrong, row, 0)), lt(at(top, row, 0), -LARGEST_F32));
        return out.value([select(invalid, i32(-1), at(token, row, 0))], b.bx);
      },
    });
  return b.build();
}

interface Draw {
  readonly draw: Expr;
  readonly top: Tile;
  readonly token: Tile;
  readonly fan: number;
  /** Of the whole block. */
  readonly lanes: number;
}

/** Leaves in `token` the first index at which the running sum of weights exceeds `draw` of the total, never one without weight. */
function drawToken(b: TileBuilder, p: TokenProblem, { draw, top, token, fan, lanes }: Draw): void {
  const largest = b.shared("largest", 1, 1);
  const start = b.shared("start", 1, 1, "i32");
  const partial = b.frag("partial", fan, lanes);
  const sum = b.frag("sum", fan, 1);
  const mass = b.shared("mass", fan, 1);
  const running = b.shared("running", fan, 1);
  const scalar = (name: string, dtype: "f32" | "i32"): Tile => b.frag(name, 1, 1, dtype);
  const [rest, before] = [scalar("rest", "f32"), scalar("before", "f32")];
  const [passed, last, chosen] = [scalar("passed", "i32"), scalar("last", "i32"), scalar("chosen", "i32")];
  const counts = b.frag("counts", 1, fan, "i32");
  const sums = b.frag("sums", 1, fan);
  const one = (tile: Tile, row: Expr): Expr => at(tile, row, 0);

  b.stage(largest, top);
  b.fill(token, 0);
  let first: Expr = i32(0);
  for (let length = p.vocab, level = 0; level === 0 || length > 1; level++) {
    // whole vectors, as long as a part has more than one
    const part = Math.ceil(length / fan);
    const size = part > lanes ? roundUp(part, lanes) : part;
    b.fill(partial, 0);
    b.loop(`l${level}`, Math.ceil(size / lanes), (j) => {
      b.map(partial, (row, col) => {
        const within = add(mul(j, lanes), col);
        const offset = add(mul(row, size), within);
        const column = add(first, offset);
        const weight = exp(sub(p.scores(b.bx, column), at(largest, 0, 0)));
        return add(at(partial, row, col), guarded(weight, and(lt(within, size), lt(offset, length), lt(column, p.vocab))));
      });
    });
    b.rowReduce(sum, "sum", partial);
    b.stage(mass, sum);
    b.stage(running, sum);
    b.scan(running);
    if (level === 0) b.map(rest, () => mul(draw, at(running, fan - 1, 0)));
    b.map(counts, (row, col) => select(le(at(running, col, 0), one(rest, row)), i32(1), i32(0)));
    b.rowReduce(passed, "sum", counts);
    b.map(counts, (_, col) => select(lt(0, at(mass, col, 0)), col, i32(0)));
    b.rowReduce(last, "max", counts);
    // rounding may take the rest to the sum of all parts, behind which there is nothing
    b.map(chosen, (row) => min(one(passed, row), one(last, row)));
    b.map(sums, (row, col) => select(lt(col, one(chosen, row)), at(running, col, 0), f32(0)));
    b.rowReduce(before, "max", sums);
    b.map(rest, (row) => sub(one(rest, row), one(before, row)));
    b.map(token, (row) => add(one(token, row), mul(one(chosen, row), size)));
    b.stage(start, token);
    first = min(max(at(start, 0, 0), 0), p.vocab - 1);
    length = size;
  }
}

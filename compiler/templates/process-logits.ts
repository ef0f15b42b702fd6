import type { Caps } from "../backend.ts";
import { div, exp, f32, load, lt, max, mul, or, select, sub } from "../ir/expr.ts";
import type { Expr } from "../ir/expr.ts";
import { at, tileBuilder } from "../ir/tile-builder.ts";
import type { Tile, TileProgram } from "../ir/tile.ts";
import type { Config, LogitsProblem, Template } from "../template.ts";
import { HALVINGS, halfway } from "./bisect.ts";
import type { Columns } from "./columns.ts";
import { columnWarps, columnsWidth, eachTile, reduceColumns } from "./columns.ts";
import { guarded } from "./common.ts";

/**
 * Repetition penalty, temperature, top-k, top-p and min-p of a row of logits, by one block a row. Nothing is sorted: that x stays depends on how many
 * scores are larger (top-k), or how much they weigh (top-p), which only falls as x grows. So the least score that stays is found by bisection, with a
 * pass over the scores for each halving; they lie in the second-level cache, and a pass is a comparison and an addition.
 */
export const processLogits: Template<LogitsProblem> = { name: "process-logits", configs, build };

interface LogitsConfig extends Config {
  readonly width: number;
}

function configs(p: LogitsProblem, caps: Caps): readonly LogitsConfig[] {
  const widths = [4, 8, 2].map((vectors) => columnsWidth(caps, p.vocab, vectors));
  return [...new Set(widths)].map((width) => ({ width }));
}

function build(p: LogitsProblem, config: Config, caps: Caps): TileProgram {
  const { width } = config as LogitsConfig;
  const b = tileBuilder(p.frame, [p.rows, 1, 1], [1, columnWarps(caps, p.vocab)]);
  const columns: Columns = { b, count: p.vocab, width };
  const tile = b.frag("tile", 1, width);
  const { penalty, temperature, topK, topP, minP } = p.settings;
  const store = (value: (row: Expr, column: Expr) => Expr): void => {
    eachTile(columns, (column, inside) => {
      b.store(tile, {
        buffer: p.scores.buffer,
        dtype: "f32",
        index: (_, col) => p.scores.index(b.bx, column(col)),
        value: (row, col) => guarded(value(row, column(col)), inside(col)),
        guard: (_, col) => inside(col),
      });
    });
  };
  const score = (column: Expr): Expr => load(p.scores.buffer, "f32", p.scores.index(b.bx, column));

  store((_, column) => {
    const x = p.logits(b.bx, column);
    const penalised = select(lt(x, 0), mul(x, penalty(b.bx)), div(x, penalty(b.bx)));
    return div(select(p.seen(b.bx, column), penalised, x), temperature(b.bx));
  });

  const cutsK = lt(0, topK(b.bx)),
    cutsP = lt(topP(b.bx), 1),
    cutsMin = lt(0, minP(b.bx));
  b.when(or(or(cutsK, cutsP), cutsMin), () => {
    const [top] = reduceColumns(columns, [{ name: "top", fn: "max", dtype: "f32", value: (_, column) => score(column) }]) as [Tile];
    const weight = (row: Expr, x: Expr): Expr => exp(sub(x, at(top, row, 0)));
    const cutoff = b.frag("cutoff", 1, 1);
    const limit = b.frag("limit", 1, 1);
    b.fill(cutoff, -Infinity);
    b.when(cutsK, () => {
      b.map(limit, () => topK(b.bx));
      const least = leastKept(columns, "k", top, limit, score, () => f32(1));
      b.map(cutoff, (row) => at(least, row, 0));
    });
    b.when(cutsP, () => {
      const kept = (row: Expr, x: Expr): Expr => select(lt(x, at(cutoff, row, 0)), 0, weight(row, x));
      const [total] = reduceColumns(columns, [
        { name: "total", fn: "sum", dtype: "f32", value: (row, column) => kept(row, score(column)) },
      ]) as [Tile];
      b.map(limit, (row) => mul(topP(b.bx), at(total, row, 0)));
      // below the cutoff more is weighed than was kept; whatever is found there, the cutoff is above it
      const least = leastKept(columns, "p", top, limit, score, weight);
      b.map(cutoff, (row) => max(at(cutoff, row, 0), at(least, row, 0)));
    });
    // not "what stays is at least": a NaN has to stay, for the next step to see it
    store((row, column) => {
      const x = score(column);
      return select(or(lt(x, at(cutoff, row, 0)), lt(weight(row, x), minP(b.bx))), f32(-Infinity), x);
    });
  });
  return b.build();
}

/** The least number such that the scores above it weigh less than `limit` together; the largest score if there is none below it. */
function leastKept(
  columns: Columns,
  name: string,
  top: Tile,
  limit: Tile,
  score: (column: Expr) => Expr,
  weight: (row: Expr, x: Expr) => Expr,
): Tile {
  const { b } = columns;
  const scalar = (part: string): Tile => b.frag(`${part}_${name}`, 1, 1);
  const [low, middle, high] = [scalar("low"), scalar("middle"), scalar("high")];
  const value = (tile: Tile, row: Expr): Expr => at(tile, row, 0);
  b.fill(low, -Infinity);
  b.map(high, (row) => value(top, row));
  b.loop(`halving_${name}`, HALVINGS, () => {
    b.map(middle, (row) => halfway(value(low, row), value(high, row)));
    const heavier = (row: Expr, x: Expr): Expr => select(lt(value(middle, row), x), weight(row, x), 0);
    const [above] = reduceColumns(columns, [
      { name: `above_${name}`, fn: "sum", dtype: "f32", value: (row, column) => heavier(row, score(column)) },
    ]) as [Tile];
    const stays = (row: Expr): Expr => lt(value(above, row), value(limit, row));
    b.map(low, (row) => select(stays(row), value(low, row), value(middle, row)));
    b.map(high, (row) => select(stays(row), value(middle, row), value(high, row)));
  });
  return high;
}

import type { DType } from "./dtype.ts";
import { intVar } from "./expr.ts";
import type { Expr, Var } from "./expr.ts";

/**
 * Tile IR: what one block of a kernel does, in whole tiles, saying nothing about threads. Its interpreter (compiler/run/tile.ts) is the
 * definition of the language. Built by templates and generators through `TileBuilder`.
 */
export interface TileProgram {
  readonly name: string;
  /** Global buffers in argument order. Programs name buffers by position ("p0", "p1", ...), so that layers of one shape give one text and share a kernel. */
  readonly params: readonly Param[];
  /** Run-time scalars (`batch`, `seq`, `past`) that any expression of the program may use; they come from the params buffer at launch. */
  readonly symbols: readonly Var[];
  /** Number of blocks along x, y, z: expressions over `symbols` only. Block indices are the variables `bx`, `by`, `bz`. */
  readonly grid: readonly [Expr, Expr, Expr];
  readonly tiles: readonly Tile[];
  readonly body: readonly Stmt[];
  /** How many groups of lanes (warps) share a block, along rows and columns of its fragment tiles. [1, 1] on a CPU. */
  readonly groups: readonly [number, number];
  /** Warps of a group, where several compute matrices together; 1 unless given. */
  readonly groupWarps?: number;
}

export type Access = "read" | "write" | "readwrite";
export interface Param {
  readonly name: string;
  readonly dtype: DType;
  readonly access: Access;
  /** Most elements the buffer can have, where that is known: a target that binds buffers in windows needs several for a large one. */
  readonly elements?: number;
  /** Nothing writes the buffer while a program runs (a weight, a literal): what is read of it need not wait for the kernels before. */
  readonly constant?: boolean;
  /** No other kernel of the program touches the buffer, a state: what is read of it need not wait for the kernels before either. */
  readonly alone?: boolean;
}

/**
 * A two-dimensional tile, row-major. `shared`: one copy for the block, any lane reads any element, in memory. `frag`: spread over the lanes by
 * the layout that `place` chooses; expressions may read it only at [row, col] of the element being computed, or at [row, 0] when it has one column, or at
 * [0, col] when it has one row.
 */
export interface Tile {
  readonly name: string;
  readonly scope: "shared" | "frag";
  readonly dtype: DType;
  readonly rows: number;
  readonly cols: number;
}

/** A strided matrix read by `mma`: element [r, c] is at `base + r * rowStride + c * colStride` of a shared tile or of a global buffer. */
export interface View {
  readonly source: "tile" | "buffer";
  readonly name: string;
  readonly dtype: DType;
  readonly base: Expr;
  readonly rowStride: Expr;
  readonly colStride: Expr;
}

export type ReduceFn = "sum" | "max" | "min";

export type Stmt =
  /**
   * Runs `body` with `var` = 0 .. count-1. `count` is the same for the whole block. `stages` > 1 asks for software pipelining of the loads in it.
   * `apart`: no turn reads memory that another turn, or a statement in front of the loop, writes, so that loads of what the program changes may come turns early too.
   */
  | {
      readonly op: "for";
      readonly var: Var;
      readonly count: Expr;
      readonly stages: number;
      readonly apart?: true;
      readonly body: readonly Stmt[];
    }
  /** `cond` is the same for the whole block (no `row`, `col`, tile elements). */
  | { readonly op: "if"; readonly cond: Expr; readonly body: readonly Stmt[]; readonly otherwise: readonly Stmt[] }
  | { readonly op: "fill"; readonly dst: Tile; readonly value: number }
  /** shared dst[row, col] = value(row, col), by all lanes together; `value` may load global memory and read other shared tiles, not fragments. */
  | { readonly op: "load"; readonly dst: Tile; readonly value: Expr }
  /** shared dst[row, col] = src[row, col] of a fragment of the same shape (rounded to dst's dtype). */
  | { readonly op: "stage"; readonly dst: Tile; readonly src: Tile }
  /** frag dst[row, col] = value(row, col), each lane its own elements; may read dst itself, other fragments at [row, col] or [row, 0], shared tiles anywhere, global memory. */
  | { readonly op: "map"; readonly dst: Tile; readonly value: Expr }
  /**
   * frag dst[row, 0] = fn over col of src[row, col], of a fragment; with `accumulate` dst's old value takes part. Or shared dst[rows, parts]: dst[row, j] = fn over
   * the j-th of `parts` equal runs of columns; where as many warps lie along a row, each has found one of them and need not wait for the others. Of a fragment,
   * only the first `rows` rows (all when null) are reduced; the others keep their value.
   */
  | {
      readonly op: "rowReduce";
      readonly dst: Tile;
      readonly fn: ReduceFn;
      readonly src: Tile;
      readonly accumulate: boolean;
      readonly rows: number | null;
    }
  /** shared tile dst[rows, 1]: inclusive running sum down the rows, in place, f32, in row order. */
  | { readonly op: "scan"; readonly dst: Tile }
  /** frag acc[M, N] += a[M, k] * b[k, N] in f32. Only the first `rows` rows (all when null) are computed; the others keep their value. */
  | { readonly op: "mma"; readonly acc: Tile; readonly a: View; readonly b: View; readonly k: Expr; readonly rows: Expr | null }
  /** global buffer[index(row, col)] = value(row, col) where guard(row, col), over the domain of tile `over` (a fragment: each lane its own elements; a shared tile: all lanes together). */
  | {
      readonly op: "store";
      readonly over: Tile;
      readonly buffer: string;
      readonly dtype: DType;
      readonly index: Expr;
      readonly value: Expr;
      readonly guard: Expr | null;
    };

/** The variables that a statement's expressions use for the element being computed, with the ranges of the tile's domain. */
export const coordinates = (t: Tile): readonly [row: Var, col: Var] => [intVar("row", 0, t.rows - 1), intVar("col", 0, t.cols - 1)];

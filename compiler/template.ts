import type { Caps } from "./backend.ts";
import type { DType } from "./ir/dtype.ts";
import type { Expr, Var } from "./ir/expr.ts";
import type { Param, ReduceFn, TileProgram } from "./ir/tile.ts";

/**
 * The contract between fusion and the templates. Fusion decides which buffers a kernel touches and hands each template its operands as
 * functions from coordinates to expressions (a load, or a load with arithmetic around it), and its results as places to store to. A template
 * decides tiles, order and staging. Coordinates handed to these functions are integer expressions inside the stated ranges; a template that runs
 * past an edge (a tail tile) must clamp or guard with `guarded` before asking.
 */

/** What every kernel needs besides its operands. */
export interface Frame {
  /** Kernel name for profiles and source, e.g. "gemm_in_proj". */
  readonly name: string;
  readonly params: readonly Param[];
  readonly symbols: readonly Var[];
}

/** One result of a kernel: `buffer[index(coords)] = value(acc, coords)`, rounded to `dtype`. */
export interface Out<Coords extends readonly Expr[]> {
  readonly buffer: string;
  readonly dtype: DType;
  readonly index: (...at: Coords) => Expr;
  /** `acc`: the template's own result(s) at these coordinates, f32. */
  readonly value: (acc: readonly Expr[], ...at: Coords) => Expr;
}

/** A state that a kernel reads and then replaces: the buffer and the index of an element. */
export interface Kept<Coords extends readonly Expr[]> {
  readonly buffer: string;
  readonly dtype: DType;
  readonly index: (...at: Coords) => Expr;
}

/** A number per choice; a config is a flat record so that it can be printed, hashed and tuned. */
export type Config = Readonly<Record<string, number>>;

export interface Reject {
  readonly reject: string;
}

export interface Template<P> {
  readonly name: string;
  /** Ordered, [0] is the default, never an invalid one; or why the template does not fit this problem on this target. */
  configs(problem: P, caps: Caps): readonly Config[] | Reject;
  build(problem: P, config: Config, caps: Caps): TileProgram;
}

/** out[row, col] of sum over k of a(row, k) * w(col, k), for one or more weights that share `a` (gate and up). */
export interface GemmProblem {
  readonly frame: Frame;
  /** Rows: an expression over symbols (batch * seq). Its range gives the largest count. */
  readonly m: Expr;
  readonly n: number;
  readonly k: number;
  readonly a: Prologue;
  /** One accumulator each. */
  readonly weights: readonly ProductWeight[];
  readonly outs: readonly ProductOut[];
  /**
   * With `count` > 1 blocks share k: instead of `outs` the kernel of the one weight writes f32 to `buffer`, [count, rows, n]: part i has the sums of the i-th of as
   * many equal runs of k. `templates/gemm-stream.ts` alone takes such a problem.
   */
  readonly parts?: {
    readonly count: number;
    readonly buffer: string;
    readonly index: (part: Expr, row: Expr, col: Expr) => Expr;
  };
  readonly best?: ProductBest;
}

/**
 * The largest value of each row, beside the outs: of each of `count` shares of the columns the kernel writes f32 to `buffer`, [rows, count, 2], the largest, and the
 * least column that has it. `gemv-stream` and `gemm-stream` alone take such a problem; which columns a share has is their business, and how many there are (`bestShares`).
 */
export interface ProductBest {
  readonly count: number;
  readonly buffer: string;
  readonly index: (row: Expr, share: Expr, i: 0 | 1) => Expr;
  /** f32. */
  readonly value: (acc: readonly Expr[], row: Expr, col: Expr) => Expr;
}

/** A weight of a product: a buffer of rows of k elements, in the layout named. */
export interface ProductWeight {
  readonly buffer: string;
  readonly dtype: DType;
  readonly panel: number;
  /** The buffer's row that makes column `n`: the n-th unless given. Only where there are no panels. */
  readonly rows?: (n: Expr) => Expr;
}

/**
 * A result of a product, of some of its columns. Outs are stored in order; one may replace elements that values read, as long as only the values at the
 * same row and column read them, and none after it.
 */
export interface ProductOut extends Out<[row: Expr, col: Expr]> {
  /** The columns it is of, [from, to) and at least one; null: all. */
  readonly columns: readonly [from: number, to: number] | null;
  /** Where this condition on symbols does not hold, it is not stored. */
  readonly when?: Expr;
}

/** How a GEMM's left operand is computed. With `stat`, a row statistic (a norm's sum of squares) is reduced first and handed to `value`. */
export interface Prologue {
  readonly stat: { readonly fn: ReduceFn; readonly value: (row: Expr, k: Expr) => Expr } | null;
  /** f32. `stat` is null when the problem has none. */
  readonly value: (row: Expr, k: Expr, stat: Expr | null) => Expr;
}

/** Causal or full attention over a cache; graph op `attention`. All functions give f32 unless they say otherwise. */
export interface AttentionProblem {
  readonly frame: Frame;
  readonly batch: Expr;
  readonly seq: Expr;
  /** Absolute position of query 0; keys j < past + seq exist. */
  readonly past: Expr;
  readonly heads: number;
  readonly kvHeads: number;
  readonly dim: number;
  /** Capacity of the cache: the largest key count. */
  readonly capacity: number;
  readonly causal: boolean;
  readonly scale: number;
  readonly q: (b: Expr, t: Expr, h: Expr, d: Expr) => Expr;
  readonly k: (b: Expr, hkv: Expr, j: Expr, d: Expr) => Expr;
  readonly v: (b: Expr, hkv: Expr, j: Expr, d: Expr) => Expr;
  /** Sequence id (ir/graph.ts) of key j, i32; null: all are of one sequence. Query t is position past + t. */
  readonly ids: ((b: Expr, j: Expr) => Expr) | null;
  readonly outs: readonly Out<[b: Expr, t: Expr, h: Expr, d: Expr]>[];
  /**
   * With `count` > 1, blocks share the keys of a query: part i has every tile of keys from its share on, and instead of `outs` the kernel writes f32 to
   * `buffer`, [batch, seq, heads, count, dim + 2]: the sums of values weighted by 2^(score - top), with scores scaled for that, then top, then the sum of the weights.
   */
  readonly parts: {
    readonly count: number;
    readonly buffer: string;
    readonly index: (b: Expr, t: Expr, h: Expr, part: Expr, d: Expr) => Expr;
  } | null;
}

/** Chunked state-space scan; graph op `ssdScan`, spec/ssd.md section 2. `dt` is already softplus-ed and clamped, `decay` = A[h] < 0. All f32. */
export interface SsdProblem {
  readonly frame: Frame;
  readonly batch: Expr;
  readonly seq: Expr;
  readonly heads: number;
  readonly headDim: number;
  readonly groups: number;
  readonly stateSize: number;
  readonly x: (b: Expr, t: Expr, h: Expr, p: Expr) => Expr;
  readonly dt: (b: Expr, t: Expr, h: Expr) => Expr;
  readonly decay: (h: Expr) => Expr;
  readonly B: (b: Expr, t: Expr, g: Expr, n: Expr) => Expr;
  readonly C: (b: Expr, t: Expr, g: Expr, n: Expr) => Expr;
  readonly D: (h: Expr) => Expr;
  /** Sequence id (ir/graph.ts) of position t of this call, or of the one before it at t = -1; i32. null: everything continues one sequence. */
  readonly ids: ((b: Expr, t: Expr) => Expr) | null;
  /** [batch, H, P, N]. */
  readonly state: Kept<[b: Expr, h: Expr, p: Expr, n: Expr]>;
  readonly outs: readonly Out<[b: Expr, t: Expr, h: Expr, p: Expr]>[];
}

/** One position of a scan whose state is from before a ring's first `held` inputs; graph op `ssdReplay`. All f32 but what is stored. */
export interface ReplayProblem extends Omit<SsdProblem, "ids"> {
  /** Inputs that the ring has room for. */
  readonly length: number;
  /** i32, from 0 to length - 1, the same for all blocks. */
  readonly held: Expr;
  /** Entry j of a row: x [batch, length, H, P], B [batch, length, G, N] and dt [batch, length, H]. Entries from `held` on may be anything; this input becomes that one. */
  readonly ring: {
    readonly x: Kept<[b: Expr, j: Expr, h: Expr, p: Expr]>;
    readonly B: Kept<[b: Expr, j: Expr, g: Expr, n: Expr]>;
    readonly dt: Kept<[b: Expr, j: Expr, h: Expr]>;
  };
}

/** Depthwise causal convolution over time with carried state; graph op `causalConv1d`. All f32. */
export interface ConvProblem {
  readonly frame: Frame;
  readonly batch: Expr;
  readonly seq: Expr;
  readonly channels: number;
  readonly width: number;
  readonly x: (b: Expr, t: Expr, c: Expr) => Expr;
  readonly weight: (c: Expr, k: number) => Expr;
  readonly bias: ((c: Expr) => Expr) | null;
  /**
   * `id`: sequence id (ir/graph.ts) of position t of this call, or of the one before it at t = -1. `end`: how many positions the new state is after.
   * Both i32. null: everything continues one sequence, and the new state is that at the end.
   */
  readonly sequences: { readonly id: (b: Expr, t: Expr) => Expr; readonly end: (b: Expr) => Expr } | null;
  /** [batch, K, C]: the last K inputs, oldest first; read and then replaced. */
  readonly state: Kept<[b: Expr, k: Expr, c: Expr]>;
  readonly outs: readonly Out<[b: Expr, t: Expr, c: Expr]>[];
}

/** Processors of logits; graph op `processLogits`. All f32 but `seen`, which is bool. */
export interface LogitsProblem {
  readonly frame: Frame;
  readonly rows: Expr;
  readonly vocab: number;
  readonly logits: (row: Expr, col: Expr) => Expr;
  readonly seen: (row: Expr, col: Expr) => Expr;
  readonly settings: Readonly<Record<"penalty" | "temperature" | "topK" | "topP" | "minP", (row: Expr) => Expr>>;
  /** f32 [rows, vocab]; the kernel also reads back what it has written. */
  readonly scores: { readonly buffer: string; readonly index: (row: Expr, col: Expr) => Expr };
}

/** The next token of each row; graph op `sampleToken`. All f32; the outs' accumulator is the token, i32. */
export interface TokenProblem {
  readonly frame: Frame;
  readonly rows: Expr;
  readonly vocab: number;
  readonly scores: (row: Expr, col: Expr) => Expr;
  readonly draw: (row: Expr) => Expr;
  readonly outs: readonly Out<[row: Expr]>[];
}

/**
 * A generated kernel: for each row, named values over the columns and reductions of them, in order, then stores. Covers pointwise kernels
 * (no reductions), norms, softmax, argmax (max, then the least index that attains it), the SSM step, losses.
 */
export interface RowProblem {
  readonly frame: Frame;
  readonly rows: Expr;
  readonly cols: number;
  /** Evaluated in order. A `temp` is a value per (row, col) kept for later steps, a reduction one value per row. */
  readonly steps: readonly RowStep[];
  /** `per: "element"`: at every (row, col); `per: "row"`: once a row (`col` is then 0). Stores happen after all steps of the row, so state may be replaced in place. */
  readonly stores: readonly {
    readonly buffer: string;
    readonly dtype: DType;
    readonly per: "element" | "row";
    readonly index: (row: Expr, col: Expr) => Expr;
    readonly value: (row: Expr, col: Expr, get: Get) => Expr;
    readonly guard: ((row: Expr, col: Expr) => Expr) | null;
  }[];
}
/** The value of an earlier step at this row (and column). */
export type Get = (name: string) => Expr;
export interface RowStep {
  readonly name: string;
  readonly kind: "temp" | ReduceFn;
  readonly value: (row: Expr, col: Expr, get: Get) => Expr;
}

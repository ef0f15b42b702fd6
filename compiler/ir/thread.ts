import type { DType } from "./dtype.ts";
import type { Expr, Var } from "./expr.ts";
import type { Param, ReduceFn, View } from "./tile.ts";

/**
 * Thread IR: what each lane of a block does. Made by `place` from Tile IR; the only IR a backend prints. All lanes of a block run the same
 * statements; expressions may use the variable `tid` (0 .. threads-1), and `lane` = tid % lanes, `warp` = tid / lanes are spelled through it.
 * On a CPU a block is one warp whose lanes are the elements of a vector register: the printer turns per-lane values into vectors, loads at
 * consecutive addresses into vector loads, and values that do not depend on `tid` into scalars.
 * The emulator (compiler/run/thread.ts) is the definition; it reports races and reads of memory nothing wrote.
 */
export interface ThreadProgram {
  readonly name: string;
  readonly params: readonly Param[];
  readonly symbols: readonly Var[];
  readonly grid: readonly [Expr, Expr, Expr];
  readonly threads: number;
  readonly lanes: number;
  readonly shared: readonly SharedDecl[];
  /** Per-lane register arrays. On a CPU an array that is `uniform` holds one scalar an element instead of a vector. */
  readonly regs: readonly RegDecl[];
  readonly body: readonly Stmt[];
}

export interface ArrayDecl {
  readonly name: string;
  readonly dtype: DType;
  readonly count: number;
}
/**
 * `turned`: vector j (of 16 bytes) of a row of so many elements lies at vector j ^ (row mod 8) of its row, so that a vector of each of eight rows next to each other
 * lies in other banks, and rows of whole lines of shared memory stay that. Programs do not see it: a printer puts it into the addresses.
 */
export interface SharedDecl extends ArrayDecl {
  readonly turned?: number;
}
export interface RegDecl extends ArrayDecl {
  /** Every lane holds the same values. */
  readonly uniform: boolean;
}

export type Stmt =
  | { readonly op: "assign"; readonly reg: string; readonly index: Expr; readonly value: Expr }
  /**
   * To a shared array or a global buffer, by every lane whose guard holds; the value is cast to `dtype` by an explicit cast in `value`. Index and
   * value are evaluated only where the guard holds: a printer that computes all lanes at once ands it into the loads (as it does for `if`).
   */
  | {
      readonly op: "store";
      readonly buffer: string;
      readonly dtype: DType;
      readonly index: Expr;
      readonly value: Expr;
      readonly guard: Expr | null;
    }
  /** regs[reg][index .. index+width-1] = `width` consecutive elements of `buffer` from `at`, 16-byte aligned; zeros where guard is false. */
  | {
      readonly op: "loadVec";
      readonly reg: string;
      readonly index: Expr;
      readonly width: number;
      readonly buffer: string;
      readonly dtype: DType;
      readonly at: Expr;
      readonly guard: Expr | null;
    }
  /** The same, the other way. */
  | {
      readonly op: "storeVec";
      readonly reg: string;
      readonly index: Expr;
      readonly width: number;
      readonly buffer: string;
      readonly dtype: DType;
      readonly at: Expr;
      readonly guard: Expr | null;
    }
  /** All lanes of the block wait for each other; what they wrote before, to shared and to global memory, is seen by all of them after. */
  | { readonly op: "barrier" }
  /** Starts copying `bytes` (4, 8 or 16) from global to shared memory, to be seen after the `asyncWait` that covers it and a barrier. */
  | {
      readonly op: "asyncCopy";
      readonly dst: string;
      readonly dstAt: Expr;
      readonly src: string;
      readonly srcAt: Expr;
      readonly dtype: DType;
      readonly width: number;
      readonly guard: Expr | null;
    }
  /** Waits until at most `pending` groups of copies (a group ends at each asyncWait) are still under way. */
  | { readonly op: "asyncWait"; readonly pending: number }
  /**
   * The matrix unit: this warp's (or this group of warps') fragment `acc` (fm x fn unit tiles; element i of unit tile (r, c) is
   * regs[acc][(r * fn + c) * elems + i]) gains a[rows from rowBase, k] * b[k, cols from colBase]. Only rows (of the block's tile) below `rows` need be computed.
   * A unit that is asynchronous only starts here: until the `unitWait` that covers it nobody may change its operands, nor touch its accumulators but to add
   * another product to them.
   */
  | {
      readonly op: "unit";
      readonly unit: string;
      readonly acc: string;
      readonly fm: number;
      readonly fn: number;
      readonly rowBase: Expr;
      readonly colBase: Expr;
      readonly a: View;
      readonly b: View;
      readonly k: Expr;
      readonly rows: Expr | null;
    }
  /** Waits until at most `pending` products of asynchronous units are still under way; then the accumulators in `done` hold their sums. */
  | { readonly op: "unitWait"; readonly pending: number; readonly done: readonly string[] }
  /** regs[reg][index] = fn of `value` over the lanes reached from this one by xor with `masks`, in that order; every lane of the group gets the result. */
  | {
      readonly op: "laneReduce";
      readonly reg: string;
      readonly index: Expr;
      readonly fn: ReduceFn;
      readonly value: Expr;
      readonly masks: readonly number[];
    }
  /** `count` is the same in all lanes. `unroll`: register arrays are indexed by `var`, so a target without indexable registers must unroll. */
  | { readonly op: "for"; readonly var: Var; readonly count: Expr; readonly unroll: boolean; readonly body: readonly Stmt[] }
  /** `cond` may differ between lanes; then the body contains no barrier, unit, unitWait or laneReduce. */
  | { readonly op: "if"; readonly cond: Expr; readonly body: readonly Stmt[]; readonly otherwise: readonly Stmt[] };

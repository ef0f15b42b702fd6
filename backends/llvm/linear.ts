import type { Expr } from "../../compiler/ir/expr.ts";
import { add, children, i32, idiv, isConst, mod, mul, rangeOf, select, sub, terms } from "../../compiler/ir/expr.ts";
import type { Stmt, ThreadProgram } from "../../compiler/ir/thread.ts";

/** An integer that grows by a fixed step from lane to lane: base + step * tid, where base is the same in all lanes. */
export interface Linear {
  readonly base: Expr;
  readonly step: number;
}

/** What the printer knows about a program's expressions: which differ between lanes, and how. */
export interface Lanes {
  /** Whether lanes may see different values. */
  varying(e: Expr): boolean;
  /** How an integer expression depends on the lane; null when it is not linear. */
  linear(e: Expr): Linear | null;
  /** Register arrays that hold one scalar an element. */
  readonly uniformRegs: ReadonlySet<string>;
}

export const isTid = (e: Expr): boolean => e.op === "var" && e.name === "tid";

const gcd = (a: number, b: number): number => (b === 0 ? a : gcd(b, a % b));

/** The largest number that is known to divide `e` (0 for zero itself). */
function divisorOf(e: Expr): number {
  if (isConst(e)) return Math.abs(e.value);
  if (e.op !== "binary") return 1;
  switch (e.fn) {
    case "add":
    case "sub":
    case "min":
    case "max":
      return gcd(divisorOf(e.a), divisorOf(e.b));
    case "mul":
      return divisorOf(e.a) * divisorOf(e.b);
    case "mod":
      return gcd(divisorOf(e.a), divisorOf(e.b));
    default:
      return 1;
  }
}

export function analyse(program: ThreadProgram): Lanes {
  const uniformRegs = new Set(program.regs.map(({ name }) => name));
  const varyingMemo = new Map<Expr, boolean>();
  const linearMemo = new Map<Expr, Linear | null>();
  const last = program.threads - 1;

  const varying = (e: Expr): boolean => {
    const hit = varyingMemo.get(e);
    if (hit !== undefined) return hit;
    const result = e.op === "var" ? isTid(e) : e.op === "reg" && !uniformRegs.has(e.name) ? true : children(e).some(varying);
    varyingMemo.set(e, result);
    return result;
  };

  const linear = (e: Expr): Linear | null => {
    const hit = linearMemo.get(e);
    if (hit !== undefined) return hit;
    const result = e.dtype !== "i32" ? null : compute(e);
    linearMemo.set(e, result);
    return result;
  };

  const compute = (e: Expr): Linear | null => {
    if (!varying(e)) return { base: e, step: 0 };
    if (isTid(e)) return { base: i32(0), step: 1 };
    if (e.op === "select" && !varying(e.c)) {
      const [a, b] = [linear(e.a), linear(e.b)];
      return a && b && a.step === b.step ? { base: select(e.c, a.base, b.base), step: a.step } : null;
    }
    if (e.op === "unary" && e.fn === "neg") {
      const a = linear(e.a);
      return a && { base: mul(a.base, -1), step: -a.step };
    }
    if (e.op !== "binary") return null;
    const [a, b] = [linear(e.a), linear(e.b)];
    if (!a || !b) return null;
    switch (e.fn) {
      case "add":
        return { base: add(a.base, b.base), step: a.step + b.step };
      case "sub":
        return { base: sub(a.base, b.base), step: a.step - b.step };
      case "mul":
        if (b.step === 0 && isConst(b.base)) return { base: mul(a.base, b.base), step: a.step * b.base.value };
        if (a.step === 0 && isConst(a.base)) return { base: mul(b.base, a.base), step: b.step * a.base.value };
        return null;
      case "idiv":
      case "mod":
        return b.step === 0 && isConst(b.base) ? divide(e.fn, a, b.base.value) : null;
      default:
        return null;
    }
  };

  /**
   * (base + step * tid) divided by a constant. Where base is a multiple of g (but for a constant) and the lanes stay within one multiple of g, and g
   * divides the divisor, all lanes have the same quotient: the rows of a tile whose width is a multiple of the lanes.
   */
  const divide = (fn: "idiv" | "mod", { base, step }: Linear, divisor: number): Linear | null => {
    if (step % divisor === 0)
      return fn === "idiv" ? { base: idiv(base, divisor), step: step / divisor } : { base: mod(base, divisor), step: 0 };
    const constant = terms(base).reduce((sum, t) => (isConst(t) ? sum + t.value : sum), 0);
    const g = gcd(divisorOf(sub(base, constant)), divisor);
    const offset = ((constant % g) + g) % g;
    const [low, high] = step > 0 ? [offset, offset + step * last] : [offset + step * last, offset];
    if (low < 0 || high >= g) return null;
    return fn === "idiv" ? { base: idiv(base, divisor), step: 0 } : { base: mod(base, divisor), step };
  };

  // Register arrays start out as uniform and lose that as soon as something may write lane-dependent values.
  for (let changed = true; changed;) {
    changed = false;
    varyingMemo.clear();
    visit(program.body, false, varying, (name) => {
      changed = uniformRegs.delete(name) || changed;
    });
  }
  for (const { name, uniform } of program.regs) if (uniform) uniformRegs.add(name);
  varyingMemo.clear();
  return { varying, linear, uniformRegs };
}

/** Calls `differs` for every register array that a statement may leave with lane-dependent values. */
function visit(body: readonly Stmt[], masked: boolean, varying: (e: Expr) => boolean, differs: (reg: string) => void): void {
  for (const s of body) {
    switch (s.op) {
      case "assign":
        if (masked || varying(s.value) || varying(s.index)) differs(s.reg);
        break;
      case "laneReduce":
        // Over all lanes the result is one value; place names such arrays uniform itself, so this errs on the safe side.
        differs(s.reg);
        break;
      case "loadVec":
        if (masked || varying(s.at) || (s.guard !== null && varying(s.guard))) differs(s.reg);
        break;
      case "unit":
        differs(s.acc);
        break;
      case "for":
        visit(s.body, masked, varying, differs);
        break;
      case "if": {
        const inner = masked || varying(s.cond);
        visit(s.body, inner, varying, differs);
        visit(s.otherwise, inner, varying, differs);
        break;
      }
      default:
        break;
    }
  }
}

/** Whether an integer expression is at least 0 for sure. */
export const isNonNegative = (e: Expr): boolean => rangeOf(e).min >= 0;

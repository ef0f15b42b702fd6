import type { DType } from "../../compiler/ir/dtype.ts";
import { BYTES, bf16Bits, f16Bits } from "../../compiler/ir/dtype.ts";
import type { Expr, Load, Var } from "../../compiler/ir/expr.ts";
import type { BinaryFn } from "../../compiler/ir/operators.ts";
import { TRUE, add, and, children, i32, isConst, mul, rangeOf, some, sub, substitute } from "../../compiler/ir/expr.ts";
import { print } from "../../compiler/ir/expr-text.ts";
import { Arith } from "./arith.ts";
import type { Frame } from "./frame.ts";
import type { Lanes } from "./linear.ts";
import { isNonNegative, isTid } from "./linear.ts";
import { memoryType } from "./micro-kernel.ts";
import type { FunctionText } from "./module-text.ts";
import * as math from "./vector-math.ts";

/**
 * A printed expression. Scalars: f32 is `float`, i32 is `i64` (indices are computed without wrapping, as in the definition of the language), bool
 * is `i1`, f16 and bf16 are `i16`. Vectors have one element a lane: float, i32, i1, i16.
 */
export interface Value {
  readonly text: string;
  readonly vector: boolean;
}

/** Where a buffer's elements are. */
export interface Place {
  /** Pointer to its first element, of the memory type of `dtype`. */
  readonly pointer: string;
  readonly dtype: DType;
  /** Nothing of the program writes it. */
  readonly constant: boolean;
}

/** One loop around the present point (or the function itself), and what has been computed at its start for everything inside. */
interface Scope {
  readonly open: string[];
  readonly values: Map<Expr, Value>;
  readonly splats: Map<Expr, string>;
}

const NONE: ReadonlySet<Expr> = new Set();

/**
 * Prints expressions. One that depends only on variables and on parameters that nobody writes is computed once, at the start of the outermost loop that
 * binds its variables; any other is computed once a statement.
 */
export class Values {
  readonly f: FunctionText;
  readonly v: Arith;
  readonly s: Arith;
  readonly lanes: Lanes;
  private readonly frame: Frame;
  private readonly places: ReadonlyMap<string, Place>;
  private readonly width: number;
  private readonly zeros: string;
  private readonly scopes: Scope[];
  private readonly bindings = new Map<string, { readonly text: string; readonly depth: number }>();
  private depths = new Map<Expr, number>();
  private values = new Map<Expr, Value>();
  private splats = new Map<Expr, string>();
  /** Which lanes run the present statement; null = all. */
  mask: string | null = null;
  /** From the start of this scope to here nothing is conditional, so that a load may move there. */
  private certain = 0;
  /** Conditions known to hold in every lane here. */
  private assumed: ReadonlySet<Expr> = NONE;

  constructor(f: FunctionText, v: Arith, s: Arith, lanes: Lanes, frame: Frame, places: ReadonlyMap<string, Place>, zeros: string) {
    this.f = f;
    this.v = v;
    this.s = s;
    this.lanes = lanes;
    this.frame = frame;
    this.places = places;
    this.width = v.lanes;
    this.zeros = zeros;
    this.scopes = [{ open: f.openPlace(), values: new Map(), splats: new Map() }];
  }

  /** Binds a variable of the whole function. */
  bind(name: string, text: string): void {
    this.bindings.set(name, { text, depth: 0 });
  }

  /** Prints a loop's body: its counter is bound, and what depends on nothing deeper is computed at its start. `sure`: the body runs at least once. */
  inLoop(counter: Var, text: string, sure: boolean, body: () => void): void {
    const depth = this.scopes.length;
    this.scopes.push({ open: this.f.openPlace(), values: new Map(), splats: new Map() });
    const shadowed = this.bindings.get(counter.name);
    this.bindings.set(counter.name, { text, depth });
    this.certainly(sure && this.certain < depth ? this.certain : depth, () => this.statement(body));
    this.scopes.pop();
    if (shadowed) this.bindings.set(counter.name, shadowed);
    else this.bindings.delete(counter.name);
    this.forget();
  }

  /** Prints what runs only under a condition. */
  conditional(body: () => void): void {
    this.certainly(Infinity, body);
  }

  private certainly(depth: number, body: () => void): void {
    const outer = this.certain;
    this.certain = depth;
    this.depths = new Map();
    body();
    this.certain = outer;
    this.depths = new Map();
  }

  /** Runs `print` with nothing remembered of what memory held, and forgets it again. */
  statement(print: () => void): void {
    this.forget();
    print();
    this.forget();
  }

  private forget(): void {
    this.values = new Map();
    this.splats = new Map();
  }

  /** Prints with some conditions taken as true in every lane. */
  assuming(conditions: ReadonlySet<Expr>, print: () => void): void {
    this.assumed = conditions;
    this.conditional(() => this.statement(print));
    this.assumed = NONE;
  }

  masked(mask: string, print: () => void): void {
    const outer = this.mask;
    this.mask = mask;
    this.conditional(print);
    this.mask = outer;
  }

  // ---- where an expression is computed -------------------------------------------------------------------------------------------------------------
  /** Index of the scope whose start can compute the expression; -1 = it depends on memory that may change, or may not be touched there. */
  private depthOf(e: Expr): number {
    const hit = this.depths.get(e);
    if (hit !== undefined) return hit;
    const depth = this.findDepth(e);
    this.depths.set(e, depth);
    return depth;
  }

  private findDepth(e: Expr): number {
    if (e.op === "var") return isTid(e) ? 0 : this.binding(e).depth;
    if (e.op === "reg" || e.op === "elem" || e.op === "shuffle") return -1;
    let depth = e.op === "load" ? this.loadDepth(e) : 0;
    if (depth < 0) return -1;
    for (const c of children(e)) {
      const d = this.depthOf(c);
      if (d < 0) return -1;
      depth = Math.max(depth, d);
    }
    return depth;
  }

  /** How far out a load may move: nobody writes a parameter that is only read, but an address must not be touched where the program would not do so. */
  private loadDepth(e: Load): number {
    if (!this.place(e.buffer).constant || this.mask !== null) return -1;
    if (e.guard && this.lanes.varying(e.guard) && !this.v.level.masks) return -1; // slow, and usually assumed away
    return this.certain < this.scopes.length ? this.certain : -1;
  }

  private binding(e: Var): { readonly text: string; readonly depth: number } {
    const b = this.bindings.get(e.name);
    if (!b) throw new Error(`the variable ${e.name} is not bound here`);
    return b;
  }

  /** The value in its natural form: a scalar where all lanes agree. */
  value(e: Expr): Value {
    if (e.op === "const") return { text: this.constant(e.dtype, e.value, false), vector: false };
    const known = this.values.get(e) ?? this.inScopes((scope) => scope.values.get(e));
    if (known) return known;
    const depth = this.depthOf(e);
    const value = this.computeAt(depth, () => this.compute(e));
    (depth < 0 ? this.values : this.scopes[depth]!.values).set(e, value);
    return value;
  }

  private computeAt<T>(depth: number, f: () => T): T {
    return depth < 0 ? f() : this.f.into(this.scopes[depth]!.open, f);
  }

  private inScopes<T>(get: (scope: Scope) => T | undefined): T | undefined {
    for (let i = this.scopes.length - 1; i >= 0; i--) {
      const hit = get(this.scopes[i]!);
      if (hit !== undefined) return hit;
    }
    return undefined;
  }

  scalar(e: Expr): string {
    const { text, vector } = this.value(e);
    // An array that holds one value for all lanes may be assigned from what only the program knows to be the same everywhere.
    return vector ? this.widen(e.dtype, this.f.ins(`extractelement ${this.vectorType(e.dtype)} ${text}, i32 0`)) : text;
  }

  vector(e: Expr): string {
    if (e.op === "const") return this.constant(e.dtype, e.value, true);
    const { text, vector } = this.value(e);
    if (vector) return text;
    const known = this.splats.get(e) ?? this.inScopes((scope) => scope.splats.get(e));
    if (known !== undefined) return known;
    const depth = this.depthOf(e);
    const splat = this.computeAt(depth, () => this.splat(e.dtype, text));
    (depth < 0 ? this.splats : this.scopes[depth]!.splats).set(e, splat);
    return splat;
  }

  private widen(dtype: DType, text: string): string {
    return dtype === "i32" ? this.f.ins(`sext i32 ${text} to i64`) : text;
  }

  vectorType(d: DType): string {
    return this.v.of(d === "bool" ? "i1" : memoryType(d));
  }

  private splat(dtype: DType, scalar: string): string {
    const text = dtype === "i32" ? this.f.ins(`trunc i64 ${scalar} to i32`) : scalar;
    const type = this.vectorType(dtype);
    const element = dtype === "bool" ? "i1" : memoryType(dtype);
    const one = this.f.ins(`insertelement ${type} poison, ${element} ${text}, i32 0`);
    return this.f.ins(`shufflevector ${type} ${one}, ${type} poison, <${this.width} x i32> zeroinitializer`);
  }

  private constant(d: DType, x: number, vector: boolean): string {
    const a = vector ? this.v : this.s;
    if (d === "f32") return a.f(x);
    if (d === "i32") return vector ? a.i(x) : String(x);
    if (d === "bool")
      return vector
        ? `<${Array<string>(this.width)
            .fill(x ? "i1 true" : "i1 false")
            .join(", ")}>`
        : x
          ? "true"
          : "false";
    return a.h(d === "bf16" ? bf16Bits(x) : f16Bits(x));
  }

  // ---- operators ------------------------------------------------------------------------------------------------------------------------------------
  private compute(e: Expr): Value {
    if (e.dtype === "i32" && this.lanes.varying(e) && e.op !== "load" && e.op !== "reg") {
      const linear = this.lanes.linear(e);
      if (linear) return { text: this.ramp(linear.base, linear.step), vector: true };
    }
    switch (e.op) {
      case "const":
        return this.value(e);
      case "var":
        return { text: this.binding(e).text, vector: false };
      case "load":
        return this.load(e);
      case "reg":
        return this.read(e);
      case "shuffle": {
        if (!this.lanes.varying(e.a)) return this.value(e.a);
        const order = Array.from({ length: this.width }, (_, i) => `i32 ${i ^ e.mask}`).join(", ");
        const type = this.vectorType(e.dtype);
        return {
          text: this.f.ins(`shufflevector ${type} ${this.vector(e.a)}, ${type} poison, <${this.width} x i32> <${order}>`),
          vector: true,
        };
      }
      case "cast":
        return this.lanes.varying(e.a)
          ? { text: this.cast(this.v, this.vector(e.a), e.a.dtype, e.dtype), vector: true }
          : { text: this.cast(this.s, this.scalar(e.a), e.a.dtype, e.dtype), vector: false };
      case "select": {
        const varying = this.lanes.varying(e);
        if (!varying)
          return {
            text: this.f.ins(
              `select i1 ${this.scalar(e.c)}, ${this.scalarType(e.dtype)} ${this.scalar(e.a)}, ${this.scalarType(e.dtype)} ${this.scalar(e.b)}`,
            ),
            vector: false,
          };
        const condition = this.lanes.varying(e.c) ? `${this.v.B} ${this.vector(e.c)}` : `i1 ${this.scalar(e.c)}`;
        const type = this.vectorType(e.dtype);
        return { text: this.f.ins(`select ${condition}, ${type} ${this.vector(e.a)}, ${type} ${this.vector(e.b)}`), vector: true };
      }
      case "unary": {
        const vector = this.lanes.varying(e.a);
        const a = vector ? this.v : this.s;
        return { text: this.unary(a, e.fn, e.dtype, vector ? this.vector(e.a) : this.scalar(e.a)), vector };
      }
      case "binary": {
        const vector = this.lanes.varying(e);
        if (vector && e.a.dtype === "i32") {
          const compared = this.compareLanes(e.fn, e.a, e.b);
          if (compared !== null) return { text: compared, vector };
        }
        const [x, y] = vector ? [this.vector(e.a), this.vector(e.b)] : [this.scalar(e.a), this.scalar(e.b)];
        const a = vector ? this.v : this.s;
        if (e.a.dtype === "f32") return { text: this.floatBinary(a, e.fn, x, y, isConst(e.b) && !Number.isNaN(e.b.value)), vector };
        if (e.a.dtype === "bool") return { text: this.boolBinary(a, e.fn, x, y), vector };
        return { text: this.intBinary(vector ? a.I : "i64", a.B, e.fn, x, y, e.a, e.b), vector };
      }
      case "elem":
        throw new Error(`${print(e)}: a tile element is no part of a thread program`);
    }
  }

  scalarType(d: DType): string {
    return d === "i32" ? "i64" : d === "bool" ? "i1" : memoryType(d);
  }

  /** base + step * lane, as a vector. */
  private ramp(base: Expr, step: number): string {
    const steps = `<${Array.from({ length: this.width }, (_, i) => `i32 ${i * step}`).join(", ")}>`;
    if (isConst(base, 0)) return steps;
    return this.f.ins(`add ${this.v.I} ${this.vector(base)}, ${steps}`);
  }

  /** A comparison of linear integers, with all that does not depend on the lane on one side: one splat and one compare. */
  private compareLanes(fn: BinaryFn, x: Expr, y: Expr): string | null {
    const condition = ({ lt: "slt", le: "sle", eq: "eq", ne: "ne" } as Partial<Record<BinaryFn, string>>)[fn];
    const [a, b] = [this.lanes.linear(x), this.lanes.linear(y)];
    if (condition === undefined || !a || !b) return null;
    return this.v.icmp(condition, this.ramp(i32(0), a.step - b.step), this.vector(sub(b.base, a.base)));
  }

  private floatBinary(a: Arith, fn: BinaryFn, x: string, y: string, yIsNumber: boolean): string {
    switch (fn) {
      case "add":
        return a.fadd(x, y);
      case "sub":
        return a.fsub(x, y);
      case "mul":
        return a.fmul(x, y);
      case "div":
        return a.fdiv(x, y);
      case "min":
      case "max":
        return a.extreme(fn, x, y, yIsNumber);
      case "pow":
        return math.pow(a, x, y);
      case "lt":
        return a.fcmp("olt", x, y);
      case "le":
        return a.fcmp("ole", x, y);
      case "eq":
        return a.fcmp("oeq", x, y);
      case "ne":
        return a.fcmp("une", x, y);
      default:
        throw new Error(`${fn} of f32`);
    }
  }

  private boolBinary(a: Arith, fn: BinaryFn, x: string, y: string): string {
    const op = ({ and: "and", or: "or", eq: "icmp eq", ne: "icmp ne" } as Partial<Record<BinaryFn, string>>)[fn];
    if (op === undefined) throw new Error(`${fn} of bool`);
    return this.f.ins(`${op} ${a.B} ${x}, ${y}`);
  }

  private intBinary(type: string, bool: string, fn: BinaryFn, x: string, y: string, a: Expr, b: Expr): string {
    const op = (code: string): string => this.f.ins(`${code} ${type} ${x}, ${y}`);
    switch (fn) {
      case "add":
      case "sub":
      case "mul":
        return op(`${fn} nsw`);
      case "lt":
        return op("icmp slt");
      case "le":
        return op("icmp sle");
      case "eq":
        return op("icmp eq");
      case "ne":
        return op("icmp ne");
      case "min":
      case "max":
        return this.f.ins(`select ${bool} ${op(fn === "min" ? "icmp slt" : "icmp sgt")}, ${type} ${x}, ${type} ${y}`);
      case "idiv":
      case "mod": {
        if (isNonNegative(a)) return this.unsignedDivide(type, fn === "idiv" ? "udiv" : "urem", x, y, a, b);
        // Divisors are positive: rounding down differs from rounding to zero where a remainder is negative.
        const rest = op("srem");
        const zero = type === "i64" ? "0" : this.v.i(0);
        const negative = this.f.ins(`icmp slt ${type} ${rest}, ${zero}`);
        if (fn === "mod")
          return this.f.ins(`select ${bool} ${negative}, ${type} ${this.f.ins(`add ${type} ${rest}, ${y}`)}, ${type} ${rest}`);
        return this.f.ins(`add ${type} ${op("sdiv")}, ${this.f.ins(`sext ${bool} ${negative} to ${type}`)}`);
      }
      default:
        throw new Error(`${fn} of i32`);
    }
  }

  /** Division by a run-time value is several times slower in 64 bits than in 32 on most processors. */
  private unsignedDivide(type: string, op: string, x: string, y: string, a: Expr, b: Expr): string {
    if (type !== "i64" || isConst(b) || rangeOf(a).max >= 2 ** 32 || rangeOf(b).max >= 2 ** 32)
      return this.f.ins(`${op} ${type} ${x}, ${y}`);
    const narrow = this.f.ins(`${op} i32 ${this.f.ins(`trunc i64 ${x} to i32`)}, ${this.f.ins(`trunc i64 ${y} to i32`)}`);
    return this.f.ins(`zext i32 ${narrow} to i64`);
  }

  private unary(a: Arith, fn: Extract<Expr, { op: "unary" }>["fn"], dtype: DType, x: string): string {
    if (dtype === "i32") {
      const type = a.lanes === 0 ? "i64" : a.I;
      const zero = a.lanes === 0 ? "0" : a.i(0);
      const negated = this.f.ins(`sub nsw ${type} ${zero}, ${x}`);
      return fn === "neg"
        ? negated
        : this.f.ins(`select ${a.B} ${this.f.ins(`icmp slt ${type} ${x}, ${zero}`)}, ${type} ${negated}, ${type} ${x}`);
    }
    switch (fn) {
      case "neg":
        return a.fneg(x);
      case "abs":
        return a.fabs(x);
      case "exp":
        return math.exp(a, x);
      case "exp2":
        return math.exp2(a, x);
      case "log":
        return math.log(a, x);
      case "log1p":
        return math.log1p(a, x);
      case "sqrt":
        return a.sqrt(x);
      case "rsqrt":
        return a.fdiv(a.f(1), a.sqrt(x));
      case "floor":
        return a.floor(x);
      case "sin":
      case "cos":
        return math.sinCos(a, fn, x);
      case "tanh":
        return math.tanh(a, x);
      case "erf":
        return math.erf(a, x);
      case "not":
        return this.f.ins(`xor ${a.B} ${x}, ${this.constant("bool", 1, a.lanes > 0)}`);
    }
  }

  private cast(a: Arith, x: string, from: DType, to: DType): string {
    if (from === to) return x;
    const int = a.lanes === 0 ? "i64" : a.I;
    if (to === "bool") {
      if (from === "i32") return this.f.ins(`icmp ne ${int} ${x}, ${a.lanes === 0 ? "0" : a.i(0)}`);
      return a.fcmp("une", this.cast(a, x, from, "f32"), a.f(0));
    }
    if (to === "i32")
      return from === "bool"
        ? this.f.ins(`zext ${a.B} ${x} to ${int}`)
        : this.f.ins(`fptosi ${a.F} ${this.cast(a, x, from, "f32")} to ${int}`);
    if (to === "f32") {
      if (from === "bf16") return a.fromBf16(x);
      if (from === "f16") return a.fromF16(x);
      return from === "i32" ? this.f.ins(`sitofp ${int} ${x} to ${a.F}`) : this.f.ins(`uitofp ${a.B} ${x} to ${a.F}`);
    }
    const single = this.cast(a, x, from, "f32");
    return to === "bf16" ? a.toBf16(single) : a.toF16(single);
  }

  // ---- memory ---------------------------------------------------------------------------------------------------------------------------------------
  /** Pointer to an element; `index` is the same in all lanes. `inside`: it is in the buffer for sure, not only where some guard holds. */
  address(buffer: string, index: Expr, inside = true): string {
    const { pointer, dtype } = this.place(buffer);
    if (isConst(index, 0)) return pointer;
    const type = memoryType(dtype);
    return this.f.ins(`getelementptr ${inside ? "inbounds " : ""}${type}, ${type}* ${pointer}, i64 ${this.scalar(index)}`);
  }

  place(buffer: string): Place {
    const p = this.places.get(buffer);
    if (!p) throw new Error(`there is no buffer or array called ${buffer}`);
    return p;
  }

  /** Splits a condition into what is the same in all lanes and what is not; what is assumed here disappears. */
  splitGuard(guard: Expr | null): { readonly uniform: Expr; readonly varying: Expr } {
    let [uniform, varying] = [TRUE, TRUE];
    if (guard)
      for (const c of conjuncts(guard)) {
        if (this.assumed.has(c)) continue;
        if (this.lanes.varying(c)) varying = and(varying, c);
        else uniform = and(uniform, c);
      }
    return { uniform, varying };
  }

  /** The lanes that a varying condition leaves, together with those of the statement; null = all. */
  maskOf(varying: Expr): string | null {
    if (isConst(varying, 1)) return this.mask;
    const own = this.vector(varying);
    return this.mask === null ? own : this.f.ins(`and ${this.v.B} ${this.mask}, ${own}`);
  }

  anyLane(mask: string): string {
    return this.f.ins(`icmp ne i${this.width} ${this.f.ins(`bitcast ${this.v.B} ${mask} to i${this.width}`)}, 0`);
  }

  allLanes(mask: string): string {
    return this.f.ins(`icmp eq i${this.width} ${this.f.ins(`bitcast ${this.v.B} ${mask} to i${this.width}`)}, -1`);
  }

  private load(e: Load): Value {
    const { uniform, varying } = this.splitGuard(e.guard);
    const type = memoryType(e.dtype);
    // Where the condition fails the load goes to a block of zeros instead: a select, and no branch.
    const guarded = (pointer: string, condition: string): string =>
      this.f.ins(`select i1 ${condition}, ${type}* ${pointer}, ${type}* ${this.zeroPointer(type)}`);
    const safe = (pointer: string): string => (isConst(uniform, 1) ? pointer : guarded(pointer, this.scalar(uniform)));
    if (!this.lanes.varying(e.index)) {
      if (isConst(varying, 1))
        return {
          text: this.fromMemory(
            this.s,
            e.dtype,
            this.f.ins(`load ${type}, ${type}* ${safe(this.address(e.buffer, e.index, isConst(uniform, 1)))}, align ${alignOf(e.dtype)}`),
          ),
          vector: false,
        };
      // One element, wanted by some lanes: fetched if any wants it.
      const mask = this.vector(varying);
      const wanted = this.maskOf(varying)!;
      const pointer = guarded(safe(this.address(e.buffer, e.index, false)), this.anyLane(wanted));
      const one = this.fromMemory(this.s, e.dtype, this.f.ins(`load ${type}, ${type}* ${pointer}, align ${alignOf(e.dtype)}`));
      const t = this.vectorType(e.dtype);
      return { text: this.f.ins(`select ${this.v.B} ${mask}, ${t} ${this.splat(e.dtype, one)}, ${t} zeroinitializer`), vector: true };
    }
    const mask = this.maskOf(varying);
    const linear = this.lanes.linear(e.index);
    if (linear?.step === 1) {
      const first = this.mask === null ? this.narrowPrefix(e.dtype, varying) : null;
      const pointer = safe(this.address(e.buffer, linear.base, mask === null && isConst(uniform, 1)));
      const raw = first === null ? this.loadVector(e.dtype, pointer, mask) : this.loadPrefix(e.dtype, pointer, first);
      return { text: this.fromMemory(this.v, e.dtype, raw), vector: true };
    }
    const wide = isConst(uniform, 1)
      ? mask
      : this.f.ins(`select i1 ${this.scalar(uniform)}, ${this.v.B} ${mask ?? this.constant("bool", 1, true)}, ${this.v.B} zeroinitializer`);
    return { text: this.fromMemory(this.v, e.dtype, this.gather(e.dtype, this.pointers(e.buffer, e.index), wide)), vector: true };
  }

  private zeroPointer(type: string): string {
    return type === "i8" ? this.zeros : `bitcast (i8* ${this.zeros} to ${type}*)`;
  }

  /** A lane's register, or one that all lanes share. */
  private read(e: Extract<Expr, { op: "reg" }>): Value {
    const slot = this.frame.arrays.get(e.name);
    if (!slot) throw new Error(`there is no register array called ${e.name}`);
    const type = memoryType(e.dtype);
    if (this.lanes.varying(e.index))
      return {
        text: this.fromMemory(this.v, e.dtype, this.gather(e.dtype, this.pointers(e.name, this.registerIndex(e.name, e.index)), this.mask)),
        vector: true,
      };
    if (!slot.perLane)
      return {
        text: this.fromMemory(
          this.s,
          e.dtype,
          this.f.ins(`load ${type}, ${type}* ${this.address(e.name, e.index)}, align ${alignOf(e.dtype)}`),
        ),
        vector: false,
      };
    return {
      text: this.fromMemory(this.v, e.dtype, this.loadVector(e.dtype, this.address(e.name, mul(e.index, this.width)), null, true)),
      vector: true,
    };
  }

  /** Where a register with a lane-dependent number is, in elements. */
  registerIndex(name: string, index: Expr): Expr {
    return this.frame.arrays.get(name)!.perLane ? add(mul(index, this.width), this.tid()) : index;
  }

  private tidVar: Var | null = null;
  setTid(tid: Var): void {
    this.tidVar = tid;
  }
  private tid(): Var {
    if (!this.tidVar) throw new Error("the program has no tid");
    return this.tidVar;
  }

  loadVector(d: DType, pointer: string, mask: string | null, aligned = false): string {
    const [type, wide] = [memoryType(d), this.v.of(memoryType(d))];
    const p = this.f.ins(`bitcast ${type}* ${pointer} to ${wide}*`);
    if (mask === null) return this.f.ins(`load ${wide}, ${wide}* ${p}, align ${aligned ? alignOf(d) * this.width : alignOf(d)}`);
    const name = `@llvm.masked.load.v${this.width}${suffix(d)}.p0v${this.width}${suffix(d)}`;
    this.f.declare(`declare ${wide} ${name}(${wide}*, i32, ${this.v.B}, ${wide})`);
    return this.f.ins(`call ${wide} ${name}(${wide}* ${p}, i32 ${alignOf(d)}, ${this.v.B} ${mask}, ${wide} zeroinitializer)`);
  }

  storeVector(d: DType, pointer: string, value: string, mask: string | null, aligned = false): void {
    const [type, wide] = [memoryType(d), this.v.of(memoryType(d))];
    const p = this.f.ins(`bitcast ${type}* ${pointer} to ${wide}*`);
    if (mask === null) {
      this.f.effect(`store ${wide} ${value}, ${wide}* ${p}, align ${aligned ? alignOf(d) * this.width : alignOf(d)}`);
      return;
    }
    const name = `@llvm.masked.store.v${this.width}${suffix(d)}.p0v${this.width}${suffix(d)}`;
    this.f.declare(`declare void ${name}(${wide}, ${wide}*, i32, ${this.v.B})`);
    this.f.effect(`call void ${name}(${wide} ${value}, ${wide}* ${p}, i32 ${alignOf(d)}, ${this.v.B} ${mask})`);
  }

  /**
   * The number of lanes that `varying` lets through, where it is known here, they are the first ones, and elements are narrower than 32 bits.
   * LLVM (seen in 22, x86-64) turns a masked 16-bit access whose constant mask has one lane into a 32-bit one and touches the neighbour too;
   * a vector of just that many elements is also what targets without 16-bit masks do best.
   */
  narrowPrefix(d: DType, varying: Expr): number | null {
    if (BYTES[d] > 2 || isConst(varying, 1) || some(varying, (x) => x.op !== "const" && x.op !== "binary" && !isTid(x))) return null;
    const passes = Array.from({ length: this.width }, (_, lane) => isConst(substitute(varying, new Map([[this.tid(), i32(lane)]])), 1));
    const count = passes.lastIndexOf(true) + 1;
    return count > 0 && passes.slice(0, count).every(Boolean) ? count : null;
  }

  loadPrefix(d: DType, pointer: string, count: number): string {
    const type = memoryType(d);
    if (count === this.width) return this.loadVector(d, pointer, null);
    const narrow = `<${count} x ${type}>`;
    const p = this.f.ins(`bitcast ${type}* ${pointer} to ${narrow}*`);
    const part = this.f.ins(`load ${narrow}, ${narrow}* ${p}, align ${alignOf(d)}`);
    const lanes = Array.from({ length: this.width }, (_, i) => `i32 ${Math.min(i, count)}`).join(", ");
    return this.f.ins(`shufflevector ${narrow} ${part}, ${narrow} zeroinitializer, <${this.width} x i32> <${lanes}>`);
  }

  storePrefix(d: DType, pointer: string, value: string, count: number): void {
    const [type, wide] = [memoryType(d), this.v.of(memoryType(d))];
    if (count === this.width) return void this.storeVector(d, pointer, value, null);
    const narrow = `<${count} x ${type}>`;
    const lanes = Array.from({ length: count }, (_, i) => `i32 ${i}`).join(", ");
    const part = this.f.ins(`shufflevector ${wide} ${value}, ${wide} poison, <${count} x i32> <${lanes}>`);
    const p = this.f.ins(`bitcast ${type}* ${pointer} to ${narrow}*`);
    this.f.effect(`store ${narrow} ${part}, ${narrow}* ${p}, align ${alignOf(d)}`);
  }

  /** A vector of pointers, one a lane. */
  pointers(buffer: string, index: Expr): string {
    const type = memoryType(this.place(buffer).dtype);
    const linear = this.lanes.linear(index);
    // A common base and constant distances leave the code generator the choice of a gather instruction's addressing.
    const base = linear ? this.address(buffer, linear.base, false) : this.place(buffer).pointer;
    const offsets = linear ? this.ramp(i32(0), linear.step) : this.vector(index);
    return this.f.ins(`getelementptr ${type}, ${type}* ${base}, ${this.v.I} ${offsets}`);
  }

  gather(d: DType, pointers: string, mask: string | null): string {
    const [type, wide] = [memoryType(d), this.v.of(memoryType(d))];
    const ps = `<${this.width} x ${type}*>`;
    const name = `@llvm.masked.gather.v${this.width}${suffix(d)}.v${this.width}p0${suffix(d)}`;
    this.f.declare(`declare ${wide} ${name}(${ps}, i32, ${this.v.B}, ${wide})`);
    return this.f.ins(
      `call ${wide} ${name}(${ps} ${pointers}, i32 ${alignOf(d)}, ${this.v.B} ${mask ?? this.constant("bool", 1, true)}, ${wide} zeroinitializer)`,
    );
  }

  scatter(d: DType, pointers: string, value: string, mask: string | null): void {
    const [type, wide] = [memoryType(d), this.v.of(memoryType(d))];
    const ps = `<${this.width} x ${type}*>`;
    const name = `@llvm.masked.scatter.v${this.width}${suffix(d)}.v${this.width}p0${suffix(d)}`;
    this.f.declare(`declare void ${name}(${wide}, ${ps}, i32, ${this.v.B})`);
    this.f.effect(
      `call void ${name}(${wide} ${value}, ${ps} ${pointers}, i32 ${alignOf(d)}, ${this.v.B} ${mask ?? this.constant("bool", 1, true)})`,
    );
  }

  /** What was loaded, as the value it stands for. */
  private fromMemory(a: Arith, d: DType, raw: string): string {
    if (d === "bool") return this.f.ins(`icmp ne ${a.of("i8")} ${raw}, ${a.lanes === 0 ? "0" : "zeroinitializer"}`);
    return d === "i32" && a.lanes === 0 ? this.f.ins(`sext i32 ${raw} to i64`) : raw;
  }

  /** A value as it is stored. */
  toMemory(a: Arith, d: DType, value: string): string {
    if (d === "bool") return this.f.ins(`zext ${a.B} ${value} to ${a.of("i8")}`);
    return d === "i32" && a.lanes === 0 ? this.f.ins(`trunc i64 ${value} to i32`) : value;
  }
}

export const alignOf = (d: DType): number => (d === "f32" || d === "i32" ? 4 : d === "bool" ? 1 : 2);
const suffix = (d: DType): string => (d === "f32" ? "f32" : d === "i32" ? "i32" : d === "bool" ? "i8" : "i16");

/** The conditions that must all hold. */
export const conjuncts = (e: Expr): Expr[] => (e.op === "binary" && e.fn === "and" ? [...conjuncts(e.a), ...conjuncts(e.b)] : [e]);

import type { Expr } from "../../compiler/ir/expr.ts";
import { add, and, children, i32, intVar, isConst, load, mul, rangeOf, reg, some, substitute, walk } from "../../compiler/ir/expr.ts";
import { eachStmt, expressionsOf, substituteStmts } from "../../compiler/ir/thread-walk.ts";
import type { Stmt } from "../../compiler/ir/thread.ts";
import type { Arith } from "./arith.ts";
import { isTid } from "./linear.ts";
import { memoryType } from "./micro-kernel.ts";
import type { Printer } from "./printer.ts";
import { printUnit } from "./unit.ts";
import { conjuncts } from "./values.ts";

export function printBody(body: readonly Stmt[], p: Printer): void {
  for (const s of body) printStmt(s, p);
}

function printStmt(s: Stmt, p: Printer): void {
  switch (s.op) {
    case "assign":
      return void split(s, p, () => assign(s, p));
    case "store":
      return void store(s, p);
    case "loadVec":
      // Lanes are the vector here: a lane's own vector is one load after another.
      for (let j = 0; j < s.width; j++)
        printStmt({ op: "assign", reg: s.reg, index: add(s.index, j), value: load(s.buffer, s.dtype, add(s.at, j), s.guard) }, p);
      return;
    case "storeVec":
      for (let j = 0; j < s.width; j++)
        printStmt(
          {
            op: "store",
            buffer: s.buffer,
            dtype: s.dtype,
            index: add(s.at, j),
            value: reg(s.reg, s.dtype, add(s.index, j)),
            guard: s.guard,
          },
          p,
        );
      return;
    case "asyncCopy":
      for (let j = 0; j < s.width; j++)
        printStmt(
          {
            op: "store",
            buffer: s.dst,
            dtype: s.dtype,
            index: add(s.dstAt, j),
            value: load(s.src, s.dtype, add(s.srcAt, j), s.guard),
            guard: null,
          },
          p,
        );
      return;
    case "barrier": // the lanes of a block run in lock-step
    case "asyncWait":
    case "unitWait":
      return;
    case "laneReduce":
      return void p.values.statement(() => laneReduce(s, p));
    case "unit":
      return void p.values.statement(() => printUnit(s, p));
    case "for":
      return void loop(s, p);
    case "if":
      return void condition(s, p);
  }
}

// ---- assignments and stores ---------------------------------------------------------------------------------------------------------------------------
/**
 * Where masked loads and stores are slow, a statement with lane-dependent guards is printed twice: without them for the vectors that lie wholly
 * inside, which are nearly all, and with them for the rest.
 */
function split(s: Stmt, p: Printer, print: () => void): void {
  const { values, f } = p;
  const guards = p.level.masks || values.mask !== null ? [] : varyingGuards(s, p);
  if (guards.length === 0) return void values.statement(print);
  let all = "";
  values.statement(() => {
    all = values.allLanes(values.vector(guards.reduce((a, b) => and(a, b))));
  });
  f.when(
    all,
    () => values.assuming(new Set(guards), print),
    () => values.conditional(() => values.statement(print)),
  );
}

function varyingGuards(s: Stmt, p: Printer): Expr[] {
  const found = new Set<Expr>();
  const note = (guard: Expr | null): void => {
    if (guard) for (const c of conjuncts(guard)) if (p.values.lanes.varying(c) && readsNothing(c)) found.add(c);
  };
  const seen = new Set<Expr>();
  if (s.op === "store") note(s.guard);
  for (const e of expressionsOf(s))
    walk(
      e,
      (x) => {
        if (x.op === "load") note(x.guard);
      },
      seen,
    );
  return [...found];
}

/** A guard that reads memory may itself be guarded; those stay where they are. */
function readsNothing(e: Expr): boolean {
  return e.op !== "load" && e.op !== "reg" && e.op !== "shuffle" && children(e).every(readsNothing);
}

function assign(s: Extract<Stmt, { op: "assign" }>, p: Printer): void {
  const { values, f, frame } = p;
  const slot = frame.arrays.get(s.reg);
  if (!slot) throw new Error(`there is no register array called ${s.reg}`);
  const type = memoryType(slot.dtype);
  if (values.lanes.varying(s.index)) {
    const value = values.toMemory(values.v, slot.dtype, values.vector(s.value));
    values.scatter(slot.dtype, values.pointers(s.reg, values.registerIndex(s.reg, s.index)), value, values.mask);
  } else if (slot.perLane) {
    const value = values.toMemory(values.v, slot.dtype, values.vector(s.value));
    const pointer = values.address(s.reg, mul(s.index, p.program.threads));
    let kept = value;
    if (values.mask !== null) {
      const wide = values.v.of(type);
      kept = f.ins(`select ${values.v.B} ${values.mask}, ${wide} ${value}, ${wide} ${values.loadVector(slot.dtype, pointer, null, true)}`);
    }
    values.storeVector(slot.dtype, pointer, kept, null, true);
  } else {
    if (values.mask !== null) throw new Error(`${s.reg} holds one value for all lanes, but only some of them assign it`);
    const value = values.toMemory(values.s, slot.dtype, values.scalar(s.value));
    f.effect(`store ${type} ${value}, ${type}* ${values.address(s.reg, s.index)}, align ${alignment(type)}`);
  }
}

const alignment = (type: string): number => (type === "i8" ? 1 : type === "i16" ? 2 : 4);

type Store = Extract<Stmt, { op: "store" }>;

function store(s: Store, p: Printer): void {
  const { values, f } = p;
  if (p.values.mask === null && s.guard) {
    const lane = onlyLane(s.guard, p);
    if (lane !== null && !seesLanes([s], p)) {
      return void printBody(substituteStmts([s], new Map([[tidOf(p), i32(lane)]])), p);
    }
  }
  const { uniform } = values.splitGuard(s.guard);
  const body = (): void => split(s, p, () => plainStore(s, p));
  if (isConst(uniform, 1)) return void body();
  let condition = "";
  values.statement(() => {
    condition = values.scalar(uniform);
  });
  f.when(condition, () => values.conditional(body));
}

/** The store itself, where the uniform part of its guard holds. Only lanes that store may read what the value is made of. */
function plainStore(s: Store, p: Printer): void {
  const { values, f } = p;
  const { varying } = values.splitGuard(s.guard);
  const mask = values.maskOf(varying);
  if (mask === null || mask === values.mask) return void put(s, p, mask, null);
  // An element that all lanes read is read without a mask, so some lane must want it.
  const shared = [s.index, s.value].some((e) => some(e, (x) => x.op === "load" && x.guard === null && !values.lanes.varying(x)));
  const own = values.mask === null ? varying : null;
  const body = (): void => values.masked(mask, () => put(s, p, mask, own));
  if (shared) f.when(values.anyLane(mask), body);
  else body();
}

/** `own`: the store's own condition, where the mask is made of it alone. */
function put(s: Store, p: Printer, mask: string | null, own: Expr | null): void {
  const { values, f } = p;
  const type = memoryType(s.dtype);
  if (values.lanes.varying(s.index)) {
    const linear = values.lanes.linear(s.index);
    const value = values.toMemory(values.v, s.dtype, values.vector(s.value));
    const first = linear?.step === 1 && mask !== null && own !== null ? values.narrowPrefix(s.dtype, own) : null;
    if (linear?.step === 1 && first !== null) values.storePrefix(s.dtype, values.address(s.buffer, linear.base), value, first);
    else if (linear?.step === 1) values.storeVector(s.dtype, values.address(s.buffer, linear.base, mask === null), value, mask);
    else values.scatter(s.dtype, values.pointers(s.buffer, s.index), value, mask);
    return;
  }
  // One element: lanes that write it write the same.
  const { text, vector } = values.value(s.value);
  const address = values.address(s.buffer, s.index, mask === null);
  const one = (value: string): void => f.effect(`store ${type} ${value}, ${type}* ${address}, align ${alignment(type)}`);
  if (mask === null) return void one(values.toMemory(values.s, s.dtype, vector ? values.scalar(s.value) : text));
  f.when(values.anyLane(mask), () => {
    if (!vector) return void one(values.toMemory(values.s, s.dtype, text));
    const width = p.program.threads;
    f.declare(`declare i${width} @llvm.cttz.i${width}(i${width}, i1)`);
    const first = f.ins(`call i${width} @llvm.cttz.i${width}(i${width} ${f.ins(`bitcast ${values.v.B} ${mask} to i${width}`)}, i1 true)`);
    one(f.ins(`extractelement ${values.v.of(type)} ${values.toMemory(values.v, s.dtype, text)}, i${width} ${first}`));
  });
}

const tidOf = (p: Printer): Expr => intVar("tid", 0, p.program.threads - 1);

/** The lane that a condition lets through, where it is evidently one: `tid < 1`, `tid == 3`. */
function onlyLane(guard: Expr, p: Printer): number | null {
  for (const c of conjuncts(guard)) {
    if (c.op !== "binary" || !isConst(c.b) || !isTid(c.a)) continue;
    if (c.fn === "lt" && c.b.value === 1) return 0;
    if (c.fn === "le" && c.b.value === 0) return 0;
    if (c.fn === "eq" && c.b.value >= 0 && c.b.value < p.program.threads) return c.b.value;
  }
  return null;
}

/** Whether statements use what lanes hold for themselves; then putting a number for `tid` does not make them one lane's. */
function seesLanes(body: readonly Stmt[], p: Printer): boolean {
  let found = false;
  const look = (e: Expr): void => {
    found ||= e.op === "shuffle" || (e.op === "reg" && !p.values.lanes.uniformRegs.has(e.name));
  };
  const seen = new Set<Expr>();
  eachStmt(body, (s) => {
    for (const e of expressionsOf(s)) walk(e, look, seen);
  });
  return found;
}

// ---- control flow -------------------------------------------------------------------------------------------------------------------------------------
/** Statements up to this many, counted over all rounds, are written out instead of looped over. */
const UNROLL = 24;

function loop(s: Extract<Stmt, { op: "for" }>, p: Printer): void {
  const { values, f } = p;
  if (isConst(s.count) && (s.unroll ? s.count.value * weight(s.body) <= 8 * UNROLL : s.count.value * weight(s.body) <= UNROLL)) {
    for (let i = 0; i < s.count.value; i++) printBody(substituteStmts(s.body, new Map([[s.var, i32(i)]])), p);
    return;
  }
  const split = splitLoop(s);
  if (split) return void loop(split, p);
  let count = "";
  values.statement(() => {
    count = values.scalar(s.count);
  });
  const sure = rangeOf(s.count).min > 0;
  f.loop(count, 1, sure, (counter) => values.inLoop(s.var, counter, sure, () => printBody(s.body, p)));
}

/**
 * A loop whose counter is only divided (rows of several heads: r // 64 and r % 64) becomes two, so that the quotient is a counter of its own and what
 * depends on it alone moves out of the inner loop. Null where there is nothing to gain.
 */
function splitLoop(s: Extract<Stmt, { op: "for" }>): Extract<Stmt, { op: "for" }> | null {
  if (!isConst(s.count)) return null;
  const rounds = s.count.value;
  let inner = 1;
  const look = (e: Expr): void => {
    if (e.op !== "binary" || (e.fn !== "idiv" && e.fn !== "mod") || e.a !== s.var || !isConst(e.b)) return;
    if (e.b.value < rounds && rounds % e.b.value === 0) inner = Math.max(inner, e.b.value);
  };
  const seen = new Set<Expr>();
  eachStmt(s.body, (x) => {
    for (const e of expressionsOf(x)) walk(e, look, seen);
  });
  if (inner === 1) return null;
  const [high, low] = [intVar(`${s.var.name}h`, 0, rounds / inner - 1), intVar(`${s.var.name}l`, 0, inner - 1)];
  const body = substituteStmts(s.body, new Map([[s.var, add(mul(high, inner), low)]]));
  const lower: Stmt = { op: "for", var: low, count: i32(inner), unroll: false, body };
  return { op: "for", var: high, count: i32(rounds / inner), unroll: false, body: [lower] };
}

function weight(body: readonly Stmt[]): number {
  let n = 0;
  for (const s of body) {
    if (s.op === "for") n += isConst(s.count) ? s.count.value * weight(s.body) : 2 * UNROLL * 8;
    else if (s.op === "if") n += 1 + weight(s.body) + weight(s.otherwise);
    else n += s.op === "unit" ? UNROLL : 1;
  }
  return n;
}

function condition(s: Extract<Stmt, { op: "if" }>, p: Printer): void {
  const { values, f } = p;
  if (!values.lanes.varying(s.cond)) {
    let c = "";
    values.statement(() => {
      c = values.scalar(s.cond);
    });
    const branch = (body: readonly Stmt[]) => (): void => values.conditional(() => printBody(body, p));
    return void f.when(c, branch(s.body), s.otherwise.length === 0 ? null : branch(s.otherwise));
  }
  const lane = values.mask === null && s.otherwise.length === 0 && onlyMemory(s.body) && !seesLanes(s.body, p) ? onlyLane(s.cond, p) : null;
  if (lane !== null) {
    const env = new Map([[tidOf(p), i32(lane)]]);
    const body = substituteStmts(s.body, env);
    const rest = substitute(s.cond, env);
    return isConst(rest, 1) ? void printBody(body, p) : void printStmt({ op: "if", cond: rest, body, otherwise: [] }, p);
  }
  const branch = (holds: string, body: readonly Stmt[]): void => {
    const mask = values.mask === null ? holds : f.ins(`and ${values.v.B} ${values.mask}, ${holds}`);
    // The branch keeps loads that all lanes share from being done for no lane at all.
    f.when(values.anyLane(mask), () => values.masked(mask, () => printBody(body, p)));
  };
  let holds = "";
  values.statement(() => {
    holds = values.vector(s.cond);
  });
  if (s.body.length > 0) branch(holds, s.body);
  if (s.otherwise.length > 0)
    branch(f.ins(`xor ${values.v.B} ${holds}, <${Array<string>(p.program.threads).fill("i1 true").join(", ")}>`), s.otherwise);
}

/** Whether a body only stores to buffers, so that running it for one lane leaves the registers of the others alone. */
const onlyMemory = (body: readonly Stmt[]): boolean =>
  body.every(
    (s) => s.op === "store" || (s.op === "for" && onlyMemory(s.body)) || (s.op === "if" && onlyMemory(s.body) && onlyMemory(s.otherwise)),
  );

// ---- reductions over lanes ----------------------------------------------------------------------------------------------------------------------------
function laneReduce(s: Extract<Stmt, { op: "laneReduce" }>, p: Printer): void {
  const { values, f, frame } = p;
  const slot = frame.arrays.get(s.reg);
  if (!slot) throw new Error(`there is no register array called ${s.reg}`);
  const width = p.program.threads;
  const { v } = values;
  const type = values.vectorType(slot.dtype);
  const element = memoryType(slot.dtype);
  const combine = (a: Arith, x: string, y: string): string => {
    if (slot.dtype === "i32") {
      const op = s.fn === "sum" ? null : s.fn === "max" ? "sgt" : "slt";
      return op === null ? a.int("add", x, y) : a.select(a.icmp(op, x, y), a.I, x, y);
    }
    return s.fn === "sum" ? a.exact("fadd", x, y) : a.select(a.fcmp(s.fn === "max" ? "ogt" : "olt", x, y), a.F, x, y);
  };
  const start = values.vector(s.value);
  const whole = s.masks.reduce((a, m) => a | m, 0) === width - 1 && s.masks.length === Math.log2(width);
  let result = start;
  for (const mask of s.masks) {
    const order = Array.from({ length: width }, (_, i) => `i32 ${i ^ mask}`).join(", ");
    result = combine(v, result, f.ins(`shufflevector ${type} ${result}, ${type} poison, <${width} x i32> <${order}>`));
  }
  if (slot.dtype === "f32" && s.fn !== "sum") result = spreadNaN(p, start, result, s.masks);
  if (slot.perLane) return void values.storeVector(slot.dtype, values.address(s.reg, mul(s.index, width)), result, null, true);
  if (!whole) throw new Error(`${s.reg} holds one value for all lanes, but is reduced over only some of them`);
  const one = f.ins(`extractelement ${type} ${result}, i32 0`);
  f.effect(`store ${element} ${one}, ${element}* ${values.address(s.reg, s.index)}, align ${alignment(element)}`);
}

/** Comparisons drop NaNs on the way; a NaN in any lane of the group is the result. */
function spreadNaN(p: Printer, start: string, result: string, masks: readonly number[]): string {
  const { v } = p.values;
  const width = p.program.threads;
  const bad = v.fcmp("uno", start, start);
  let any = bad;
  for (const mask of masks) {
    const order = Array.from({ length: width }, (_, i) => `i32 ${i ^ mask}`).join(", ");
    any = v.ins(`or ${v.B} ${any}, ${v.ins(`shufflevector ${v.B} ${any}, ${v.B} poison, <${width} x i32> <${order}>`)}`);
  }
  return v.select(any, v.F, v.f(NaN), result);
}

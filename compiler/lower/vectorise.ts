import type { DType } from "../ir/dtype.ts";
import { BYTES } from "../ir/dtype.ts";
import { add, and, binary, i32, idiv, isConst, mod, mul, reg, rewrite, some, sub, sum, walk } from "../ir/expr.ts";
import type { Expr, Load } from "../ir/expr.ts";
import { accessesOf, expressionsOf, mapExpressions } from "../ir/thread-walk.ts";
import type { RegDecl, Stmt, ThreadProgram } from "../ir/thread.ts";
import { affine, divisorOf, gcd } from "./affine.ts";

/**
 * Single accesses of a lane to consecutive elements become vectors: loads in statements that follow one another, and stores. A group is as many elements as
 * a vector of at most `bytes` bytes holds, all of them accessed, from an address that is a multiple of them, under one condition. Wants loops over
 * registers written out (unroll.ts). For targets whose compilers do not know that rows begin at multiples.
 */
export function vectoriseThread(p: ThreadProgram, bytes: number): ThreadProgram {
  const names = new Set([...p.params, ...p.symbols, ...p.shared, ...p.regs].map(({ name }) => name));
  const regs: RegDecl[] = [];
  const make: Scope["make"] = (hint, dtype, count, uniform) => {
    let n = regs.length;
    while (names.has(`${hint}${n}`)) n++;
    names.add(`${hint}${n}`);
    regs.push({ name: `${hint}${n}`, dtype, count, uniform });
    return `${hint}${n}`;
  };
  const written = new Set([...p.params.filter((q) => q.access !== "read"), ...p.shared].map(({ name }) => name));
  const body = visit(p.body, { bytes, make, written, divergent: false });
  return { ...p, regs: [...p.regs, ...regs], body: mapAll(body, normalised) };
}

/** All expressions of statements, those of statements inside them too. */
function mapAll(body: readonly Stmt[], f: (e: Expr) => Expr): readonly Stmt[] {
  return body.map((s) => {
    const own = mapExpressions(s, f);
    if (own.op === "for") return { ...own, body: mapAll(own.body, f) };
    return own.op === "if" ? { ...own, body: mapAll(own.body, f), otherwise: mapAll(own.otherwise, f) } : own;
  });
}

interface Scope {
  readonly bytes: number;
  /** Declares a register array and gives its name. */
  readonly make: (hint: string, dtype: DType, count: number, uniform: boolean) => string;
  /** Memory that the program writes. */
  readonly written: ReadonlySet<string>;
  /** Under a condition that lanes may decide differently. */
  readonly divergent: boolean;
}

function visit(body: readonly Stmt[], scope: Scope): readonly Stmt[] {
  const inner = joinStores(body, scope).map((s): Stmt => {
    if (s.op === "for") return { ...s, body: visit(s.body, scope) };
    if (s.op === "if") {
      const inside = { ...scope, divergent: scope.divergent || varies(s.cond) };
      return { ...s, body: visit(s.body, inside), otherwise: visit(s.otherwise, inside) };
    }
    return s;
  });
  return joinLoads(inner, scope);
}

const varies = (e: Expr): boolean => some(e, (x) => (x.op === "var" && x.name === "tid") || x.op === "reg" || x.op === "shuffle");

/** Lengths of vectors of a dtype, longest first. */
const widths = (dtype: DType, bytes: number): number[] => [16, 8, 4, 2].filter((w) => w * BYTES[dtype] <= bytes && w * BYTES[dtype] >= 4);

// ---- addresses --------------------------------------------------------------------------------------------------------

/** The greatest alignment looked for, in elements. */
const MOST = 16;

const normal = new Map<Expr, Expr>();
/**
 * The same value with what is not a multiple moved out of divisions: (8 x + 3) // 64 is 8 x // 64, and (8 x + 3) % 64 is 8 x % 64 + 3. Neighbours then
 * differ in a constant only.
 */
function normalised(e: Expr): Expr {
  const hit = normal.get(e);
  if (hit) return hit;
  const found = rewrite(e, (x) => {
    if (x.op !== "binary" || (x.fn !== "idiv" && x.fn !== "mod") || !isConst(x.b)) return undefined;
    const { atoms, constant } = affine(x.a);
    let g = gcd(MOST, x.b.value);
    for (const [atom, by] of atoms) g = gcd(g, by * divisorOf(atom));
    const rest = ((constant % g) + g) % g;
    if (rest === 0) return undefined;
    const whole = sub(x.a, rest);
    return x.fn === "idiv" ? idiv(whole, x.b) : add(mod(whole, x.b), rest);
  });
  normal.set(e, found);
  return found;
}

interface Address {
  /** What neighbours have in common, as text. */
  readonly key: string;
  readonly atoms: ReadonlyMap<Expr, number>;
  readonly constant: number;
  /** The largest number (up to MOST) that divides the part without the constant. */
  readonly step: number;
}

const numbers = new Map<Expr, number>();
let next = 0;
function idOf(e: Expr): number {
  const known = numbers.get(e);
  if (known !== undefined) return known;
  numbers.set(e, next);
  return next++;
}

const addresses = new Map<Expr, Address>();
function addressOf(index: Expr): Address {
  const hit = addresses.get(index);
  if (hit) return hit;
  const { atoms, constant } = affine(normalised(index));
  let step = MOST;
  for (const [atom, by] of atoms) step = gcd(step, by * divisorOf(atom));
  const key = [...atoms]
    .filter(([, by]) => by !== 0)
    .map(([atom, by]) => `${idOf(atom)}*${by}`)
    .sort()
    .join(" ");
  const found = { key, atoms, constant, step };
  addresses.set(index, found);
  return found;
}

/** An index as a part that is certainly a multiple of `run`, and the rest. */
export function inRuns(index: Expr, run: number): { readonly whole: Expr; readonly rest: Expr } {
  const { atoms, constant } = affine(index);
  const isWhole = ([atom, by]: readonly [Expr, number]): boolean => (by * divisorOf(atom)) % run === 0;
  const sumOf = (of: readonly (readonly [Expr, number])[], c: number): Expr => sum([...of.map(([atom, by]) => mul(atom, by)), i32(c)]);
  const parts = [...atoms];
  const over = constant - floorTo(constant, run);
  return { whole: sumOf(parts.filter(isWhole), constant - over), rest: sumOf(parts.filter((part) => !isWhole(part)), over) }; // prettier-ignore
}

const floorTo = (n: number, w: number): number => Math.floor(n / w) * w;

/** The index of the vector of `w` elements that an address lies in. */
const vectorStart = (a: Address, w: number): Expr =>
  add(sum([...a.atoms].filter(([, by]) => by !== 0).map(([atom, by]) => mul(atom, by))), i32(floorTo(a.constant, w)));

/** A condition as it is for the first of the `w` elements that it is the same for. */
function conditionFor(c: Expr, w: number): Expr {
  if (c.op !== "binary") return c;
  if (c.fn === "and" || c.fn === "or") return binary(c.fn, conditionFor(c.a, w), conditionFor(c.b, w));
  if (c.fn !== "lt" || c.a.dtype !== "i32" || !isConst(c.b) || c.b.value % w !== 0) return c;
  const a = addressOf(c.a);
  // also where it is for the first already: two ways to write one sum are two expressions
  return a.step % w === 0 ? binary("lt", vectorStart(a, w), c.b) : c;
}

// ---- stores -----------------------------------------------------------------------------------------------------------

type Store = Extract<Stmt, { op: "store" }>;

/** Stores that follow one another, to consecutive elements under one condition, become one store of a vector. */
function joinStores(body: readonly Stmt[], scope: Scope): readonly Stmt[] {
  const out: Stmt[] = [];
  for (let i = 0; i < body.length;) {
    const s = body[i]!;
    const joined = s.op === "store" ? joinFrom(body, i, scope) : null;
    if (joined) {
      out.push(...joined.body);
      i += joined.count;
    } else {
      out.push(s);
      i++;
    }
  }
  return out;
}

function joinFrom(body: readonly Stmt[], from: number, scope: Scope): { readonly body: readonly Stmt[]; readonly count: number } | null {
  const first = body[from] as Store;
  const start = addressOf(first.index);
  for (const w of widths(first.dtype, scope.bytes)) {
    if (start.step % w !== 0 || start.constant % w !== 0 || from + w > body.length) continue;
    const guard = first.guard && conditionFor(first.guard, w);
    const run = body.slice(from, from + w);
    const fits = run.every((s, j): s is Store => {
      if (s.op !== "store" || s.buffer !== first.buffer || s.dtype !== first.dtype) return false;
      const a = addressOf(s.index);
      const same = a.key === start.key && a.constant === start.constant + j;
      // a value must not read what an earlier one of these stores replaces
      return same && (s.guard && conditionFor(s.guard, w)) === guard && !readsElements(s.value, first.buffer, start, j);
    });
    if (!fits) continue;
    const name = scope.make("w", first.dtype, w, false);
    const statements: Stmt[] = [
      ...run.map((s, j): Stmt => ({ op: "assign", reg: name, index: i32(j), value: s.value })),
      {
        op: "storeVec",
        reg: name,
        index: i32(0),
        width: w,
        buffer: first.buffer,
        dtype: first.dtype,
        at: vectorStart(start, w),
        guard: null,
      },
    ];
    return { body: guard === null ? statements : [{ op: "if", cond: guard, body: statements, otherwise: [] }], count: w };
  }
  return null;
}

/** Whether a value may read one of the `count` elements from `start` on. */
function readsElements(value: Expr, buffer: string, start: Address, count: number): boolean {
  let found = false;
  walk(value, (e) => {
    if (e.op !== "load" || e.buffer !== buffer) return;
    const a = addressOf(e.index);
    found ||= a.key !== start.key || (a.constant >= start.constant && a.constant < start.constant + count);
  });
  return found;
}

// ---- loads ------------------------------------------------------------------------------------------------------------

/** A load in a statement, and the condition that it is reached under. */
interface Use {
  readonly statement: number;
  readonly load: Load;
  readonly guard: Expr | null;
  /** Grows whenever the buffer may have changed. */
  readonly age: number;
}

function joinLoads(body: readonly Stmt[], scope: Scope): readonly Stmt[] {
  const uses = usesIn(body, scope);
  /** For each statement, what to load before it and what its loads become. */
  const before = new Map<number, Stmt[]>();
  const replaced = new Map<number, Map<Load, Expr>>();
  const done = new Set<Use>();
  for (const w of [16, 8, 4, 2]) {
    const groups = new Map<string, Use[]>();
    for (const u of uses) {
      const { dtype, buffer, index } = u.load;
      if (done.has(u) || w * BYTES[dtype] > scope.bytes || w * BYTES[dtype] < 4) continue;
      const a = addressOf(index);
      if (a.step % w !== 0) continue;
      const guard = u.guard && conditionFor(u.guard, w);
      const key = `${buffer} ${dtype} ${u.age} ${a.key} ${floorTo(a.constant, w)} ${guard ? idOf(guard) : "-"}`;
      groups.set(key, [...(groups.get(key) ?? []), u]);
    }
    for (const group of groups.values()) {
      const constants = new Set(group.map((u) => addressOf(u.load.index).constant));
      if (constants.size < w) continue;
      const { load } = group[0]!;
      const first = Math.min(...group.map((u) => u.statement));
      const guard = group[0]!.guard && conditionFor(group[0]!.guard, w);
      const at = vectorStart(addressOf(load.index), w);
      const uniform = !scope.divergent && !varies(at) && !(guard && varies(guard));
      const name = scope.make("l", load.dtype, w, uniform);
      before.set(first, [
        ...(before.get(first) ?? []),
        { op: "loadVec", reg: name, index: i32(0), width: w, buffer: load.buffer, dtype: load.dtype, at, guard },
      ]);
      for (const u of group) {
        done.add(u);
        const map = replaced.get(u.statement) ?? new Map<Load, Expr>();
        replaced.set(u.statement, map);
        map.set(u.load, reg(name, u.load.dtype, addressOf(u.load.index).constant - floorTo(addressOf(u.load.index).constant, w)));
      }
    }
  }
  if (before.size === 0) return body;
  return body.flatMap((s, i) => {
    const map = replaced.get(i);
    const memo = new Map<Expr, Expr>();
    const changed = map ? mapExpressions(s, (e) => rewrite(e, () => undefined, replacing(map, memo))) : s;
    return [...(before.get(i) ?? []), changed];
  });
}

/** A memo for `rewrite` in which some loads have become something else. */
const replacing = (map: ReadonlyMap<Load, Expr>, memo: Map<Expr, Expr>): Map<Expr, Expr> => {
  for (const [load, by] of map) memo.set(load, by);
  return memo;
};

/** Loads whose address and condition do not change while the statements run, in order. Loops and conditions are not looked into. */
function usesIn(body: readonly Stmt[], scope: Scope): readonly Use[] {
  const ages = new Map<string, number>();
  const found: Use[] = [];
  let all = 0;
  body.forEach((s, statement) => {
    const age = (buffer: string): number => (scope.written.has(buffer) ? all + (ages.get(buffer) ?? 0) : 0);
    if (s.op === "assign" || s.op === "store" || s.op === "laneReduce") {
      const reached = s.op === "store" ? s.guard : null;
      const seen = new Set<Expr>();
      const look = (e: Expr): void =>
        walk(
          e,
          (x) => {
            if (x.op !== "load" || !isSteady(x.index, scope) || (x.guard && !isSteady(x.guard, scope))) return;
            if (reached && !isSteady(reached, scope)) return;
            const guard = reached ? (x.guard ? and(reached, x.guard) : reached) : x.guard;
            found.push({ statement, load: x, guard, age: age(x.buffer) });
          },
          seen,
        );
      if (s.op === "store") {
        look(s.value);
        look(s.index);
      } else for (const e of expressionsOf(s)) look(e);
    }
    if (s.op === "barrier" || s.op === "for" || s.op === "if" || s.op === "asyncWait") all += 1 << 16;
    for (const name of accessesOf(s).writes) ages.set(name, (ages.get(name) ?? 0) + 1);
  });
  return found;
}

const isSteady = (e: Expr, scope: Scope): boolean => {
  let steady = true;
  walk(e, (x) => {
    if (x.op === "reg" || x.op === "shuffle" || (x.op === "load" && scope.written.has(x.buffer))) steady = false;
  });
  return steady;
};

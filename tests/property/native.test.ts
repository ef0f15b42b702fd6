import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { caps } from "../../backends/llvm/caps.ts";
import { print } from "../../backends/llvm/print.ts";
import type { Caps } from "../../compiler/backend.ts";
import type { DType } from "../../compiler/ir/dtype.ts";
import { allocate, read, write } from "../../compiler/ir/dtype.ts";
import * as x from "../../compiler/ir/expr.ts";
import type { Expr } from "../../compiler/ir/expr.ts";
import { printThread } from "../../compiler/ir/thread-text.ts";
import type { Stmt, ThreadProgram } from "../../compiler/ir/thread.ts";
import { emulateThread, printFinding } from "../../compiler/run/thread.ts";
import type { HostArray } from "../../compiler/run/tile.ts";
import { hostLevels, runNative } from "../support/native.ts";
import { random } from "../support/problems/case.ts";

/**
 * Random thread programs, native against the emulator: lane-dependent and shared conditions, gathers and scatters, guards, every dtype, registers with
 * lane-dependent numbers, shuffles, reductions. All numbers are small integers or halves of them, so that both must agree to the last bit.
 */
const N = 96; // elements of an input buffer
const INPUTS: readonly (readonly [string, DType])[] = [
  ["p0", "f32"],
  ["p1", "i32"],
  ["p2", "bf16"],
  ["p3", "f16"],
  ["p4", "bool"],
];
const OUTPUTS: readonly (readonly [string, DType])[] = [
  ["q0", "f32"],
  ["q1", "i32"],
  ["q2", "bf16"],
  ["q3", "f16"],
  ["q4", "bool"],
];
const SLOTS = 12; // places in an output that statements write, each as wide as a block

/** Makes one random program from a stream of random numbers; the same numbers make the same program. */
class Generator {
  private readonly next: () => number;
  private readonly W: number;
  private readonly tid: Expr;
  private vars: Expr[];
  private uniform = false;
  private divergent = false;
  private slot = 0;

  constructor(seed: number, W: number) {
    this.next = random(seed);
    this.W = W;
    this.tid = x.intVar("tid", 0, W - 1);
    this.vars = [x.intVar("bx", 0, 1), x.intVar("n", 1, 5)];
  }

  private below(n: number): number {
    return Math.floor(this.next() * n);
  }
  private pick<T>(...options: readonly (() => T)[]): T {
    return options[this.below(options.length)]!();
  }

  int(depth: number): Expr {
    if (depth === 0)
      return this.pick(
        () => x.i32(this.below(24) - 8),
        () => (this.uniform ? this.vars[0]! : this.tid),
        () => this.vars[this.below(this.vars.length)]!,
        () => x.reg(this.uniform ? "ui" : "vi", "i32", this.below(2)),
      );
    const a = (): Expr => this.int(depth - 1);
    // differences of remainders keep everything small
    const small = (e: Expr): Expr => x.sub(x.mod(e, 61), 17);
    return this.pick(
      () => x.add(a(), a()),
      () => x.sub(a(), a()),
      () => small(x.mul(a(), a())),
      () => x.idiv(a(), 1 + this.below(9)),
      () => x.mod(a(), 1 + this.below(40)),
      () => x.min(a(), a()),
      () => x.max(a(), a()),
      () => x.idiv(x.add(x.mul(this.vars[0]!, this.W * 2), this.uniform ? x.i32(3) : this.tid), this.W),
      () => x.mod(x.add(x.mul(this.vars[1]!, this.W), this.uniform ? x.i32(3) : this.tid), 2 * this.W),
      () => x.select(this.bool(depth - 1), a(), a()),
      () => x.cast(this.bool(depth - 1), "i32"),
      () => x.cast(x.unary("floor", this.float(depth - 1)), "i32"),
      () =>
        x.unary(
          this.pick<"neg" | "abs">(
            () => "neg",
            () => "abs",
          ),
          a(),
        ),
      () => this.load("p1", "i32", depth - 1),
    );
  }

  float(depth: number): Expr {
    if (depth === 0)
      return this.pick(
        () => x.f32(this.below(17) / 2 - 4),
        () => x.cast(this.int(0), "f32"),
        () => x.reg(this.uniform ? "uf" : "vf", "f32", this.below(2)),
      );
    const a = (): Expr => this.float(depth - 1);
    const clamp = (e: Expr): Expr => x.min(x.max(e, -40), 40);
    return this.pick(
      () => x.add(a(), a()),
      () => x.sub(a(), a()),
      () => clamp(x.unary("floor", x.mul(a(), a()))),
      () => x.min(a(), a()),
      () => x.max(a(), a()),
      () =>
        x.unary(
          this.pick<"neg" | "abs" | "floor">(
            () => "neg",
            () => "abs",
            () => "floor",
          ),
          a(),
        ),
      () => x.select(this.bool(depth - 1), a(), a()),
      () => x.cast(this.int(depth - 1), "f32"),
      () => this.load("p0", "f32", depth - 1),
      () => x.cast(this.load("p2", "bf16", depth - 1), "f32"),
      () => x.cast(this.load("p3", "f16", depth - 1), "f32"),
      () => x.cast(x.cast(clamp(a()), "bf16"), "f32"),
      () => (this.uniform || this.divergent ? a() : x.shuffle(x.reg("vf", "f32", 1), 1 << this.below(Math.log2(this.W)))),
    );
  }

  bool(depth: number): Expr {
    if (depth === 0)
      return this.pick(
        () => x.lt(this.int(0), this.below(this.W + 2)),
        () => x.bool(this.below(2) === 0),
      );
    const i = (): Expr => this.int(depth - 1);
    const b = (): Expr => this.bool(depth - 1);
    return this.pick(
      () => x.lt(i(), i()),
      () => x.le(i(), i()),
      () => x.eq(i(), i()),
      () => x.ne(i(), i()),
      () => x.lt(this.float(depth - 1), this.float(depth - 1)),
      () => x.and(b(), b()),
      () => x.or(b(), b()),
      () => x.not(b()),
      () => this.load("p4", "bool", depth - 1),
    );
  }

  private load(buffer: string, dtype: DType, depth: number): Expr {
    return this.pick(
      // anywhere, reduced to the buffer: a gather, unless all lanes agree
      () => x.load(buffer, dtype, x.mod(this.int(depth), N)),
      // consecutive, reversed, strided
      () => (this.uniform ? x.load(buffer, dtype, this.below(N)) : x.load(buffer, dtype, x.add(this.tid, this.below(N - this.W)))),
      () => (this.uniform ? x.load(buffer, dtype, this.below(N)) : x.load(buffer, dtype, x.sub(N - 1 - this.below(8), x.mul(this.tid, 2)))),
      // anywhere at all, with a guard that knows
      () => {
        const at = this.int(depth);
        return x.load(buffer, dtype, at, x.and(x.le(0, at), x.lt(at, N)));
      },
      () => {
        const at = this.uniform ? this.int(0) : x.add(this.tid, x.sub(x.mul(this.vars[this.below(this.vars.length)]!, 30), 10));
        return x.load(buffer, dtype, at, x.and(x.and(x.le(0, at), x.lt(at, N)), this.bool(0)));
      },
    );
  }

  private value(dtype: DType, depth: number): Expr {
    if (dtype === "i32") return this.int(depth);
    if (dtype === "bool") return this.bool(depth);
    const f = this.float(depth);
    return dtype === "f32" ? f : x.cast(f, dtype);
  }

  /** Statements. `divergent`: only some lanes may be here. */
  body(depth: number, divergent: boolean): Stmt[] {
    return Array.from({ length: 1 + this.below(3) }, () => this.statement(depth, divergent));
  }

  private statement(depth: number, divergent: boolean): Stmt {
    this.divergent = divergent;
    const leaf: (() => Stmt)[] = [() => this.assign(), () => this.store(), () => this.store()];
    if (!divergent)
      leaf.push(
        () => this.assignUniform(),
        () => this.reduce(),
      );
    if (depth === 0) return this.pick(...leaf);
    return this.pick(
      ...leaf,
      () => ({
        op: "if" as const,
        cond: this.bool(2),
        body: this.body(depth - 1, true),
        otherwise: this.below(2) === 0 ? [] : this.body(depth - 1, true),
      }),
      () => {
        const count = this.pick<Expr>(
          () => x.i32(1 + this.below(4)),
          () => x.i32(30),
          () => x.intVar("n", 1, 5),
          () => x.sub(x.intVar("n", 1, 5), 2),
        );
        const v = x.intVar(`i${depth}${this.below(1000)}`, 0, Math.max(0, x.rangeOf(count).max - 1));
        const outer = this.vars;
        this.vars = [...outer, v, v];
        const body = this.body(depth - 1, divergent);
        this.vars = outer;
        return { op: "for" as const, var: v, count, unroll: this.below(3) === 0, body };
      },
    );
  }

  private assign(): Stmt {
    const [reg, dtype] = this.pick<readonly [string, DType]>(
      () => ["vf", "f32"],
      () => ["vi", "i32"],
    );
    const index = this.pick<Expr>(
      () => x.i32(this.below(2)),
      () => x.mod(this.int(1), 2),
    );
    return { op: "assign", reg, index, value: this.value(dtype, 3) };
  }

  private assignUniform(): Stmt {
    this.uniform = true;
    const [reg, dtype] = this.pick<readonly [string, DType]>(
      () => ["uf", "f32"],
      () => ["ui", "i32"],
    );
    const s: Stmt = { op: "assign", reg, index: x.i32(this.below(2)), value: this.value(dtype, 3) };
    this.uniform = false;
    return s;
  }

  /** No two lanes, blocks or statements write one element. */
  private store(): Stmt {
    const [buffer, dtype] = OUTPUTS[this.below(OUTPUTS.length)]!;
    const base = x.add(x.mul(this.vars[0]!, SLOTS * this.W * 2), (this.slot++ % SLOTS) * this.W * 2);
    const [index, extra] = this.pick<readonly [Expr, Expr | null]>(
      () => [x.add(base, this.tid), null],
      () => [x.add(base, x.mul(this.tid, 2)), null],
      () => [x.add(base, x.sub(this.W - 1, this.tid)), null],
      () => [base, x.eq(this.tid, this.below(this.W))],
      () => [base, x.lt(this.tid, 1)],
    );
    const guard = this.pick<Expr | null>(
      () => null,
      () => this.bool(2),
    );
    const both = extra && guard ? x.and(extra, guard) : (extra ?? guard);
    return { op: "store", buffer, dtype, index, value: this.value(dtype, 3), guard: both };
  }

  private reduce(): Stmt {
    const dtype = this.pick<DType>(
      () => "f32",
      () => "i32",
    );
    const fn = this.pick<"sum" | "max" | "min">(
      () => "sum",
      () => "max",
      () => "min",
    );
    const all = Array.from({ length: Math.log2(this.W) }, (_, i) => 1 << i);
    const value = dtype === "f32" ? x.min(x.max(this.float(2), -40), 40) : x.sub(x.mod(this.int(2), 61), 17);
    if (this.below(2) === 0)
      return { op: "laneReduce", reg: dtype === "f32" ? "uf" : "ui", index: x.i32(this.below(2)), fn, value, masks: all };
    const masks = all.filter(() => this.below(2) === 0).reverse();
    return { op: "laneReduce", reg: dtype === "f32" ? "vf" : "vi", index: x.i32(this.below(2)), fn, value, masks };
  }

  program(): ThreadProgram {
    const W = this.W;
    const set = (reg: string, index: number, value: Expr): Stmt => ({ op: "assign", reg, index: x.i32(index), value });
    const start = [0, 1].flatMap((i) => [
      set("vf", i, x.cast(x.sub(this.tid, i), "f32")),
      set("vi", i, x.add(this.tid, i)),
      set("uf", i, x.f32(i + 0.5)),
      set("ui", i, x.i32(3 - i)),
    ]);
    return {
      name: "random",
      params: [
        ...INPUTS.map(([name, dtype]) => ({ name, dtype, access: "read" as const })),
        ...OUTPUTS.map(([name, dtype]) => ({ name, dtype, access: "write" as const })),
      ],
      symbols: [x.intVar("n", 1, 5)],
      grid: [x.i32(2), x.i32(1), x.i32(1)],
      threads: W,
      lanes: W,
      shared: [],
      regs: [
        { name: "vf", dtype: "f32", count: 2, uniform: false },
        { name: "vi", dtype: "i32", count: 2, uniform: false },
        { name: "uf", dtype: "f32", count: 2, uniform: true },
        { name: "ui", dtype: "i32", count: 2, uniform: true },
      ],
      body: [...start, ...this.body(2, false), ...this.body(3, false), ...this.body(0, false)],
    };
  }
}

function memory(W: number): Record<string, HostArray> {
  const next = random(7);
  const inputs = INPUTS.map(([name, dtype]) => {
    const data = allocate(dtype, N);
    for (let i = 0; i < N; i++)
      write(data, dtype, i, dtype === "bool" ? Math.round(next()) : Math.floor(next() * 33) / (dtype === "i32" ? 1 : 2) - 8);
    return [name, data] as const;
  });
  const outputs = OUTPUTS.map(([name, dtype]) => [name, allocate(dtype, 2 * SLOTS * W * 2)] as const);
  return Object.fromEntries([...inputs, ...outputs]);
}

/** What a program does on the emulator, or null if it does something that no program may (then it says nothing about the printer). */
function emulated(program: ThreadProgram, target: Caps, n: number): Record<string, HostArray> | null {
  const buffers = memory(target.lanes);
  const findings = emulateThread(program, target, buffers, { n });
  const wrong = findings.filter((f) => f.kind !== "race" && f.kind !== "block race");
  if (wrong.length > 0) throw new Error(`the generator made a wrong program: ${wrong.map(printFinding).join("\n")}`);
  return findings.length > 0 ? null : buffers;
}

/** The numbers in a buffer; the two zeros are one, since the emulator's integers have a -0. */
const values = (data: HostArray, dtype: DType): number[] => Array.from({ length: data.length }, (_, i) => read(data, dtype, i) + 0);

describe.each(hostLevels)("on %s", (level) => {
  const target = caps(level);
  test("random programs give what the emulator gives, bit by bit", () => {
    let compared = 0;
    fc.assert(
      fc.property(fc.nat(2 ** 31 - 1), fc.integer({ min: 1, max: 5 }), (seed, n) => {
        const program = new Generator(seed, target.lanes).program();
        const want = emulated(program, target, n);
        if (!want) return;
        compared++;
        const got = memory(target.lanes);
        runNative(program, target, got, { n });
        for (const [name, dtype] of OUTPUTS)
          expect(values(got[name]!, dtype), `${name}\n${printThread(program)}\n${print(program, target).text}`).toEqual(
            values(want[name]!, dtype),
          );
      }),
      { numRuns: 80 },
    );
    expect(compared).toBeGreaterThan(40);
  });
});

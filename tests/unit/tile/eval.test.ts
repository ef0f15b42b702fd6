import { expect, test } from "vitest";
import {
  add,
  and,
  binary,
  cast,
  constant,
  elem,
  evaluate,
  exp,
  f32,
  idiv,
  intVar,
  load,
  lt,
  mod,
  mul,
  select,
  shuffle,
  sub,
  unary,
  variable,
} from "../../../compiler/ir/expr.ts";
import type { Expr } from "../../../compiler/ir/expr.ts";
import { compileExpr } from "../../../compiler/run/eval.ts";
import type { Binder, Cell } from "../../../compiler/run/eval.ts";

const cells = new Map<string, Cell>();
const cell = (name: string, value = 0): Cell => {
  const c = cells.get(name) ?? { value };
  cells.set(name, c);
  return c;
};
let loads = 0;
const binder: Binder = {
  variable: (v) => cell(v.name),
  load: (_, dtype) => (i) => {
    loads++;
    if (i < 0) throw new Error("read below 0");
    return dtype === "i32" ? i : i + 0.5;
  },
  elem: () => (r, c) => r * 10 + c,
};
const bySpec = (e: Expr): number =>
  evaluate(e, {
    variable: (name) => cell(name).value,
    load: (_, i) => i + 0.5,
    elem: (_, r, c) => r * 10 + c,
    reg: () => 0,
    shuffle: () => 0,
  });

const x = intVar("x", -20, 20),
  y = intVar("y", 0, 7),
  z = variable("z", "f32");

test("compiled closures mean what evaluate means", () => {
  const i = add(mul(x, 3), y);
  const expressions: Expr[] = [
    i,
    idiv(i, 5),
    mod(sub(x, y), 7),
    mod(add(x, 20), add(y, 1)),
    select(lt(x, y), z, mul(z, 2)),
    cast(add(z, f32(0.1)), "bf16"),
    cast(mul(z, f32(-1.7)), "i32"),
    exp(unary("neg", binary("max", z, f32(0)))),
    and(lt(x, y), lt(y, 5)),
    binary("pow", unary("abs", z), f32(1.5)),
    load("p", "f32", y, lt(x, 0)),
    elem("t", "f32", y, add(y, 2)),
    constant(3, "f32"),
  ];
  for (const e of expressions) {
    const f = compileExpr(e, binder);
    for (const [a, b, c] of [
      [-20, 0, 1.25],
      [3, 7, -2.5],
      [20, 4, 0],
      [-1, 1, 100],
    ] as const) {
      cell("x").value = a;
      cell("y").value = b;
      cell("z").value = c;
      expect(f()).toBe(bySpec(e));
    }
  }
});

test("a shared part runs once a call, and again at the next call", () => {
  const shared = mul(load("p", "f32", y), z);
  const f = compileExpr(add(exp(shared), add(shared, load("p", "f32", y))), binder);
  loads = 0;
  cell("y").value = 2;
  cell("z").value = 1;
  expect(f()).toBe(Math.exp(2.5) + 5);
  expect(loads).toBe(1);
  cell("y").value = 3;
  expect(f()).toBe(Math.exp(3.5) + 7);
  expect(loads).toBe(2);
});

test("a guarded load does not touch memory, although select evaluates both sides", () => {
  cell("x").value = -3;
  expect(compileExpr(load("p", "i32", x, lt(-1, x)), binder)()).toBe(0);
  expect(() => compileExpr(select(lt(-1, x), load("p", "i32", x), 0), binder)()).toThrow("below 0");
});

test("what is under a shuffle is evaluated anew for each lane", () => {
  const lane = intVar("tid", 0, 3);
  const value = mul(lane, lane);
  const f = compileExpr(add(value, shuffle(value, 1)), {
    variable: (v) => cell(v.name),
    shuffle: (a, mask) => () => {
      const tid = cell("tid");
      const here = tid.value;
      tid.value = here ^ mask;
      const other = a();
      tid.value = here;
      return other;
    },
  });
  cell("tid").value = 2;
  expect(f()).toBe(4 + 9);
  expect(() => compileExpr(load("p", "f32", lane), { variable: (v) => cell(v.name) })()).toThrow("a load cannot be evaluated here");
});

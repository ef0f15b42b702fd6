import { describe, expect, test } from "vitest";
import { add, and, ceilDiv, elem, exp, f32, i32, intVar, load, lt, min, mul, neg, sub } from "../../../compiler/ir/expr.ts";
import type { Expr } from "../../../compiler/ir/expr.ts";
import { at, bufferView, tileBuilder, viewOf } from "../../../compiler/ir/tile-builder.ts";
import type { TileBuilder } from "../../../compiler/ir/tile-builder.ts";
import { printTile, verifyTile } from "../../../compiler/ir/tile-text.ts";
import type { Param, Stmt, TileProgram } from "../../../compiler/ir/tile.ts";
import { interpretTile } from "../../../compiler/run/tile.ts";

const n = intVar("n", 1, 100);
const params: Param[] = [
  { name: "x", dtype: "f32", access: "read" },
  { name: "y", dtype: "f32", access: "write" },
  { name: "s", dtype: "f32", access: "readwrite" },
  { name: "h", dtype: "bf16", access: "write" },
];
const make = (
  body: (b: TileBuilder) => void,
  grid: [Expr | number, number, number] = [1, 1, 1],
  groups: [number, number] = [1, 1],
): TileProgram => {
  const b = tileBuilder({ name: "t", params, symbols: [n] }, grid, groups);
  body(b);
  return b.build();
};
const x = (i: Expr): Expr => load("x", "f32", i);
const memory = (counts: { x?: number; y?: number; s?: number; h?: number } = {}): Record<string, Float32Array | Uint16Array> => ({
  x: Float32Array.from({ length: counts.x ?? 16 }, (_, i) => i),
  y: new Float32Array(counts.y ?? 16).fill(-1),
  s: Float32Array.from({ length: counts.s ?? 16 }, (_, i) => i),
  h: new Uint16Array(counts.h ?? 16),
});
const run = (
  p: TileProgram,
  buffers = memory(),
  symbols: Record<string, number> = { n: 5 },
): Record<string, Float32Array | Uint16Array> => {
  interpretTile(p, buffers, symbols);
  return buffers;
};

/** Sums of rows of x [n, 4], written to y where they are below a limit. */
const rowSums = (): TileProgram =>
  make(
    (b) => {
      const t = b.frag("t", 2, 4),
        sum = b.frag("sum", 2, 1);
      const row = (r: Expr): Expr => add(mul(b.bx, 2), r);
      b.fill(sum, 0);
      b.map(t, (r, c) => load("x", "f32", add(mul(row(r), 4), c), lt(row(r), n)));
      b.rowReduce(sum, "sum", t);
      b.store(sum, { buffer: "y", dtype: "f32", index: row, value: (r) => at(sum, r, 0), guard: (r) => lt(row(r), n) });
    },
    [ceilDiv(n, 2), 1, 1],
  );

describe("the interpreter", () => {
  test("runs blocks over a symbolic grid, with guards at the edge", () => {
    expect([...run(rowSums(), memory({ x: 20, y: 6 }))["y"]!]).toEqual([6, 22, 38, 54, 70, -1]);
  });

  test("rounds where a value is stored, and nowhere else", () => {
    const p = make((b) => {
      const t = b.frag("t", 1, 1),
        small = b.shared("small", 1, 1, "bf16");
      // 2^24 + 1 - 2^24 is 1 inside one expression, and 0 through a tile
      b.map(t, () => add(f32(2 ** 24), x(i32(1))));
      b.store(t, { buffer: "y", dtype: "f32", index: () => i32(0), value: (r) => sub(at(t, r, 0), f32(2 ** 24)) });
      b.map(t, () => sub(add(f32(2 ** 24), x(i32(1))), f32(2 ** 24)));
      b.store(t, { buffer: "y", dtype: "f32", index: () => i32(1), value: (r) => at(t, r, 0) });
      b.load(small, () => add(x(i32(3)), f32(2 ** -9)));
      b.store(small, { buffer: "y", dtype: "f32", index: () => i32(2), value: (r, c) => at(small, r, c) });
      b.store(small, { buffer: "h", dtype: "bf16", index: () => i32(0), value: () => f32(1 + 2 ** -8) });
    });
    const out = run(p);
    expect([...out["y"]!.slice(0, 3)]).toEqual([0, 1, 3]);
    expect(out["h"]![0]).toBe(0x3f80);
  });

  test("multiplies views of tiles and buffers, turned or not, for the first rows only", () => {
    const p = make((b) => {
      const a = b.shared("a", 2, 3),
        acc = b.frag("acc", 2, 2);
      b.load(a, (r, c) => x(add(mul(r, 3), c)));
      b.fill(acc, 0);
      b.mma(acc, viewOf(a), viewOf(a, { transposed: true }), 3);
      b.store(acc, { buffer: "y", dtype: "f32", index: (r, c) => add(mul(r, 2), c), value: (r, c) => at(acc, r, c) });
      b.mma(acc, viewOf(a), bufferView("x", "f32", 1, 2, 1), 2, sub(n, 4));
      b.store(acc, { buffer: "y", dtype: "f32", index: (r, c) => add(add(mul(r, 2), c), 4), value: (r, c) => at(acc, r, c) });
    });
    // a = [[0 1 2] [3 4 5]]; a aᵀ = [[5 14] [14 50]]; then row 0 gains [0 1] [[1 2] [3 4]] = [3 4]
    expect([...run(p)["y"]!.slice(0, 8)]).toEqual([5, 14, 14, 50, 8, 18, 14, 50]);
  });

  test("scans down a column, reduces into an old value, branches and loops", () => {
    const p = make((b) => {
      const s = b.shared("s_tile", 4, 1),
        t = b.frag("t", 1, 4),
        top = b.frag("top", 1, 1);
      b.load(s, (r) => x(add(r, 1)));
      b.scan(s);
      b.fill(top, 7);
      b.loop("i", n, (i) => {
        b.when(
          lt(i, 1),
          () => {
            b.map(t, (_, c) => at(s, c, 0));
          },
          () => {
            b.map(t, (r, c) => sub(at(t, r, c), 1));
          },
        );
        b.rowReduce(top, "max", t, true);
      });
      b.store(t, { buffer: "y", dtype: "f32", index: (_, c) => c, value: (r, c) => at(t, r, c) });
      b.store(top, { buffer: "y", dtype: "f32", index: () => i32(4), value: (r) => at(top, r, 0) });
    });
    expect([...run(p)["y"]!.slice(0, 5)]).toEqual([-3, -1, 2, 6, 10]);
  });

  const fails = (body: (b: TileBuilder) => void, message: string | RegExp, grid: [number, number, number] = [1, 1, 1]): void => {
    const p = make(body, grid);
    expect(() => run(p)).toThrow(message);
  };

  test("reports what was never written, with the statement", () => {
    fails((b) => {
      const t = b.frag("t", 1, 2);
      b.store(t, { buffer: "y", dtype: "f32", index: (_, c) => c, value: (r, c) => at(t, r, c) });
    }, /t\(0, 0\) is read and was never written\n {4}in: store y/);
    fails((b) => {
      const a = b.shared("a", 2, 2),
        acc = b.frag("acc", 1, 1);
      b.fill(acc, 0);
      b.when(lt(n, 2), () => {
        b.fill(a, 0);
      });
      b.mma(acc, viewOf(a), viewOf(a), 1);
    }, "element 0 of a is read and was never written");
    // a block does not see what the block before it left
    fails(
      (b) => {
        const t = b.frag("t", 1, 1);
        b.when(lt(b.bx, 1), () => {
          b.fill(t, 0);
        });
        b.store(t, { buffer: "y", dtype: "f32", index: () => b.bx, value: (r, c) => at(t, r, c) });
      },
      "never written",
      [2, 1, 1],
    );
  });

  test("reports an index outside a buffer", () => {
    const one = (b: TileBuilder): ReturnType<TileBuilder["frag"]> => {
      const t = b.frag("t", 1, 1);
      b.fill(t, 0);
      return t;
    };
    fails((b) => {
      b.map(one(b), () => x(mul(n, 4)));
    }, "reads element 20 of x, which has 16");
    fails((b) => {
      b.store(one(b), { buffer: "y", dtype: "f32", index: () => sub(n, 6), value: () => f32(1) });
    }, "writes element -1 of y, which has 16");
  });

  test("reports what blocks, or elements of one statement, would race for", () => {
    const t = (b: TileBuilder): ReturnType<TileBuilder["frag"]> => b.frag("t", 1, 2);
    const two: [number, number, number] = [2, 1, 1];
    fails(
      (b) => b.store(t(b), { buffer: "y", dtype: "f32", index: (_, c) => c, value: () => f32(1) }),
      "y[0] is written by two blocks",
      two,
    );
    fails((b) => b.store(t(b), { buffer: "y", dtype: "f32", index: () => i32(3), value: () => f32(1) }), "y[3] is written by two elements");
    // every element is replaced by its neighbour: which neighbour, the old or the new one?
    const neighbour = (_: Expr, c: Expr): Expr => load("s", "f32", sub(1, c));
    fails(
      (b) => b.store(t(b), { buffer: "s", dtype: "f32", index: (_, c) => c, value: neighbour }),
      /s\[\d\] is .*by two elements of one statement/,
    );
    const first = (_: Expr, c: Expr): Expr => load("s", "f32", c);
    const apart = (b: TileBuilder): void =>
      b.store(t(b), { buffer: "s", dtype: "f32", index: (_, c) => add(mul(b.bx, 2), c), value: first });
    fails(apart, "s[0] is written and read by two blocks", two);
    // through a tile it is no race
    const p = make((b) => {
      const own = t(b);
      b.map(own, neighbour);
      b.store(own, { buffer: "s", dtype: "f32", index: (_, c) => c, value: (r, c) => at(own, r, c) });
    });
    expect([...run(p)["s"]!.slice(0, 3)]).toEqual([1, 0, 2]);
  });

  test("wants every buffer, and symbols inside their ranges", () => {
    expect(() => interpretTile(rowSums(), memory(), {})).toThrow("the symbol n has no value");
    expect(() => interpretTile(rowSums(), memory(), { n: 101 })).toThrow("n = 101 is outside [1, 100]");
    expect(() => interpretTile(rowSums(), {}, { n: 1 })).toThrow("there is no buffer for x");
  });
});

describe("the builder", () => {
  test("decides constant conditions and leaves out loops of one turn", () => {
    const p = make((b) => {
      const t = b.frag("t", 1, 2);
      b.loop("none", 0, () => {
        b.fill(t, 1);
      });
      b.loop("once", 1, (i) => {
        b.map(t, () => x(i));
      });
      b.when(lt(i32(2), 1), () => {
        b.fill(t, 2);
      });
      b.when(lt(min(n, 3), 4), () => {
        b.fill(t, 3);
      });
    });
    expect(p.body.map((s) => s.op)).toEqual(["map", "fill"]);
    expect(printTile(p)).toContain("map t(row, col) = x[0]");
  });

  test("checks scopes and shapes where they are written", () => {
    const bad: [(b: TileBuilder) => void, string][] = [
      [(b) => void b.frag("t", 0, 4), "tile t has the shape [0, 4]"],
      [(b) => [b.frag("t", 1, 1), b.shared("t", 1, 1)], "two tiles are called t"],
      [(b) => b.load(b.frag("t", 1, 1), () => f32(0)), "load takes a shared tile, t is frag"],
      [(b) => b.map(b.shared("t", 1, 1), () => f32(0)), "map takes a frag tile, t is shared"],
      [(b) => b.stage(b.shared("a", 2, 2), b.frag("t", 2, 3)), "stage of t f32[2, 3] into a f32[2, 2]"],
      [(b) => b.rowReduce(b.frag("a", 2, 2), "sum", b.frag("t", 2, 3)), "rowReduce of t f32[2, 3] into a f32[2, 2]"],
      [(b) => b.rowReduce(b.frag("a", 2, 1), "sum", b.frag("t", 2, 3), false, 3), "the first 3 rows are none of a fragment of 2"],
      [(b) => b.scan(b.shared("a", 2, 2)), "scan of a f32[2, 2]; it takes f32 [rows, 1]"],
    ];
    for (const [body, message] of bad) expect(() => make(body)).toThrow(message);
  });
});

describe("verify", () => {
  const rejects = (body: (b: TileBuilder) => void, message: string, groups: [number, number] = [1, 1]): void => {
    expect(() => make(body, [2, 1, 1], groups)).toThrow(message);
  };

  test("fragments are read only where they are being computed", () => {
    rejects((b) => {
      const t = b.frag("t", 4, 4);
      b.map(t, (r, c) => at(t, c, r));
    }, "t(col, row): a fragment is read only at [row, col]");
    rejects((b) => {
      const t = b.frag("t", 4, 1),
        u = b.frag("u", 2, 4);
      b.map(u, (r) => at(t, r, 0));
    }, "t(row, 0): a fragment is read only at [row, col], or at [row, 0]");
    rejects((b) => {
      const t = b.frag("t", 4, 4),
        s = b.shared("a", 4, 4);
      b.load(s, (r, c) => at(t, r, c));
    }, "a fragment cannot be read here");
    rejects((b) => {
      const t = b.frag("t", 4, 4),
        s = b.shared("a", 4, 4);
      b.store(s, { buffer: "y", dtype: "f32", index: (_, c) => c, value: (r, c) => at(t, r, c) });
    }, "a fragment cannot be read here");
  });

  test("what steers a block is the same for all of it", () => {
    rejects((b) => {
      b.when(lt(intVar("row", 0, 3), 2), () => {
        b.fill(b.frag("t", 1, 1), 0);
      });
    }, "the variable row in [0, 3] is not in scope");
    rejects((b) => {
      const s = b.shared("a", 1, 1, "i32");
      b.loop("i", at(s, 0, 0), () => {
        b.fill(s, 0);
      });
    }, "a tile is read where the value must be the same for the whole block");
  });

  test("names, dtypes and access are those declared", () => {
    const t = (b: TileBuilder): ReturnType<TileBuilder["frag"]> => b.frag("t", 1, 2);
    rejects((b) => b.map(t(b), () => load("z", "f32", i32(0))), "the buffer z is not a parameter");
    rejects((b) => b.map(t(b), () => load("y", "f32", i32(0))), "y is read, it is declared as write");
    rejects((b) => b.map(t(b), () => load("x", "i32", i32(0))), "x holds f32, it is read as i32");
    rejects((b) => b.map(t(b), () => x(i32(-1))), "x is always read below 0");
    rejects(
      (b) => b.map(t(b), () => at({ name: "q", scope: "shared", dtype: "f32", rows: 1, cols: 1 }, 0, 0)),
      "the tile q is not declared",
    );
    rejects(
      (b) => b.store(t(b), { buffer: "x", dtype: "f32", index: () => i32(0), value: () => f32(0) }),
      "x is not a buffer that can be written",
    );
    rejects(
      (b) => b.store(t(b), { buffer: "h", dtype: "f32", index: () => i32(0), value: () => f32(0) }),
      "h holds bf16, it is written as f32",
    );
    rejects((b) => b.map(t(b), () => x(intVar("j", 0, 1))), "the variable j in [0, 1] is not in scope");
    rejects((b) => b.fill(b.frag("bx", 1, 1), 0), "the name bx is taken twice or reserved");
    rejects((b) => {
      b.loop("i", 4, () => {
        b.loop("i", 4, () => {
          b.fill(b.frag("t", 1, 1), 0);
        });
      });
    }, "the name i is taken");
  });

  test("shared tiles and views of them stay inside, as far as ranges tell", () => {
    rejects((b) => {
      const s = b.shared("a", 4, 4);
      b.map(b.frag("t", 2, 2), (r, c) => at(s, add(r, 3), c));
    }, "rows 3..4 and columns 0..1 are not inside a[4, 4]");
    rejects((b) => {
      const s = b.shared("a", 4, 4);
      b.mma(b.frag("t", 4, 4), viewOf(s), viewOf(s, { row: 1 }), 4);
    }, "a view of a covers elements 4..19 of 16");
    rejects((b) => {
      const s = b.shared("a", 4, 4);
      b.load(s, (r, c) => neg(at(s, r, c)));
    }, "load reads the tile that it writes");
  });

  test("holds for programs that no builder wrote, and lists everything at once", () => {
    const good = rowSums();
    const t = good.tiles[0]!;
    const statements: Stmt[] = [
      { op: "map", dst: t, value: lt(n, 1) },
      { op: "for", var: intVar("i", 0, 3), count: n, stages: 1, body: [] },
      { op: "fill", dst: { ...t, name: "other" }, value: 0 },
      { op: "map", dst: t, value: exp(elem("t", "bf16", 0, 0).op === "elem" ? f32(1) : f32(2)) },
    ];
    expect(() => verifyTile({ ...good, body: statements, groups: [0, 1], grid: [intVar("bx", 0, 4), i32(1), i32(1)] })).toThrow(
      /groups are \[0, 1\][\s\S]*grid bx[\s\S]*the value is bool, not f32[\s\S]*i in \[0, 3\] does not cover the count n[\s\S]*the tile other is not declared/,
    );
    expect(() => verifyTile(good)).not.toThrow();
  });
});

test("text names everything a program has, and two programs of the same statements print the same", () => {
  const p = make(
    (b) => {
      const a = b.shared("a", 2, 2),
        acc = b.frag("acc", 2, 2),
        sum = b.frag("sum", 2, 1);
      b.fill(acc, 0);
      b.loop("k", n, (k) => b.load(a, (r, c) => load("x", "f32", add(add(mul(k, 4), mul(r, 2)), c), lt(k, 3))), 2);
      b.when(
        lt(b.bx, 1),
        () => {
          b.mma(acc, viewOf(a), bufferView("s", "f32", 1, 4, 1), 2, min(n, 2));
        },
        () => {
          b.rowReduce(sum, "max", acc);
          b.rowReduce(sum, "sum", acc, true, 1);
        },
      );
      b.stage(a, acc);
      b.store(acc, {
        buffer: "h",
        dtype: "bf16",
        index: (r, c) => add(r, c),
        value: (r, c) => at(acc, r, c),
        guard: (r, c) => and(lt(r, 1), lt(add(b.bx, c), 2)),
      });
    },
    [2, 1, 1],
    [1, 1],
  );
  expect(printTile(p)).toBe(`tile t
  param x: read f32
  param y: write f32
  param s: readwrite f32
  param h: write bf16
  symbol n in [1, 100]
  grid [2, 1, 1]
  groups [1, 1]
  shared a: f32[2, 2]
  frag acc: f32[2, 2]
  frag sum: f32[2, 1]
  fill acc = 0
  for k < n stages 2
    load a(row, col) = x[(((k * 4) + (row * 2)) + col) if (k < 3)]
  if (bx < 1)
    mma acc += a<0; 2, 1> * s<1; 4, 1>, k 2, rows min(n, 2)
  else
    rowReduce sum = max acc
    rowReduce sum sum= acc, rows 1
  stage a = acc
  store h[(row + col)] = bf16(acc(row, col)) over acc if ((row < 1) && ((bx + col) < 2))
`);
});

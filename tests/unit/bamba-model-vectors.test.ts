import { describe, expect, it } from "vitest";
import type { Tensor } from "../../compiler/run/graph.ts";
import { tensor } from "../../compiler/run/graph.ts";
import { asParams } from "../support/golden.ts";
import { Interpreted } from "../support/interpreted.ts";
import { config, prompt, weights } from "../support/spec-model.ts";

const params = asParams(new Map(weights.map(({ name, value }) => [name, value])));

const ids = (...rows: readonly (readonly number[])[]): Tensor => tensor("i32", [rows.length, rows[0]!.length], rows.flat());
const session = (limits: Partial<{ chunkSize: number; zLossCoefficient: number }> = {}): Interpreted =>
  new Interpreted({ ...config, ...limits }, params, { batch: [1, 2], capacity: 32 });
/** Elements from a position, to compare with printed ones. */
const from = (t: Tensor, at: readonly number[], count: number): number[] => {
  const start = t.shape.reduce((offset, size, axis) => offset * size + (at[axis] ?? 0), 0);
  return [...t.data.subarray(start, start + count)];
};
/** Six significant digits were printed. */
const expectClose = (got: readonly number[], expected: readonly number[]): void => {
  expect(got.length).toBe(expected.length);
  for (const [i, e] of expected.entries()) expect(Math.abs(got[i]! - e), `element ${i}: ${got[i]!} and ${e}`).toBeLessThan(2e-5);
};
const total = (t: Tensor, f: (x: number) => number = (x) => x): number => t.data.reduce((sum, x) => sum + f(x), 0);

describe("spec (h)", () => {
  it("weights", () => {
    expect(weights).toHaveLength(47);
    expectClose(from(params["lm_head.weight"]!, [], 4), [-0.287758, -0.290071, 0.0258935, 0.0809424]);
    expectClose(from(params["model.layers.0.mamba.A_log"]!, [], 3), [0.00179819, 0.942328, 1.33702]);
  });

  it.each([2, 4, 8, 256])("forward, chunk %i", (chunkSize) => {
    const out = session({ chunkSize }).run({ ids: ids(prompt) }, { phase: "prefill", logits: "all", hiddenStates: true });
    const logits = out["logits"]!;
    expectClose(from(logits, [0, 0], 8), [0.954566, 0.879957, 0.835274, -1.85, -0.583469, 0.655019, 0.095269, -1.40602]);
    expectClose(from(logits, [0, 10], 8), [-1.35522, -1.20334, -1.31188, 0.462996, -0.626737, -0.900044, 0.137881, -0.565932]);
    expect(total(logits)).toBeCloseTo(-8.78342, 3);
    expect(total(logits, (x) => x * x)).toBeCloseTo(738.71747, 3);
    expectClose(from(out["hidden.0"]!, [0, 10], 3), [-0.568496, 0.0964476, -0.162348]);
    expectClose(from(out["hidden.1"]!, [0, 10], 3), [-1.56238, 0.823219, -0.32624]);
    expectClose(from(out["hidden.2"]!, [0, 10], 3), [-2.78072, -0.397675, -1.21881]);
    expectClose(from(out["hidden.3"]!, [0, 10], 3), [-2.94087, 0.210557, -3.85906]);
    expectClose(from(out["hidden.4"]!, [0, 10], 3), [-1.07893, 0.436086, -1.71556]);
  });

  it("states after prefill, and one step", () => {
    const run = session();
    run.run({ ids: ids(prompt) }, { phase: "prefill" });
    const { states } = run;
    expectClose(
      [0, 1, 2, 3].map((k) => from(states["layers.0.conv"]!, [0, k, 0], 1)[0]!),
      [-1.82285, -0.386733, -1.38976, -1.20985],
    );
    expectClose(from(states["layers.0.ssm"]!, [], 4), [0.00438138, -0.0232907, -0.158762, 0.0315757]);
    expect(total(states["layers.2.ssm"]!)).toBeCloseTo(25.9572128, 3);
    expectClose(from(states["layers.1.keys"]!, [0, 0, 10], 4), [-0.248502, -1.05943, 0.771881, -0.923323]);
    const step = run.run({ ids: ids([33]) }, { phase: "decode" });
    expectClose(from(step["logits"]!, [], 8), [-0.254262, -0.422167, 0.888376, -0.429801, -0.237689, -0.0128246, 0.65613, 1.17089]);
    expectClose(from(run.states["layers.0.ssm"]!, [], 4), [-0.1551, -0.0318742, -0.102513, -0.0653935]);
  });

  it("loss and z-loss", () => {
    const labels = ids([...prompt.slice(1).map((id, i) => (i < 2 ? -100 : id)), -100]);
    const loss = (zLossCoefficient: number): number => {
      const out = session({ zLossCoefficient }).run({ ids: ids(prompt), labels }, { phase: "prefill", logits: "all", loss: true });
      return out["loss"]!.data[0]! + (out["z_loss"]?.data[0] ?? 0);
    };
    expect(loss(0)).toBeCloseTo(4.9689479, 5);
    expect(loss(0.01)).toBeCloseTo(5.1841702, 5);
  });

  it("greedy generation, alone and in a padded batch", () => {
    expect(greedy([prompt], 12)).toEqual([[28, 55, 30, 15, 43, 18, 53, 37, 55, 61, 33, 16]]);
    const other = Array.from({ length: 14 }, (_, i) => 5 + i);
    expect(greedy([[0, 0, 0, ...prompt], other], 8, 3)).toEqual([
      [28, 55, 30, 15, 43, 18, 53, 37],
      [46, 62, 61, 5, 5, 50, 46, 62],
    ]);
  });
});

/** The likeliest tokens after each row; the first row begins with `padding` tokens that do not count. */
function greedy(rows: readonly (readonly number[])[], count: number, padding = 0): number[][] {
  const run = session();
  const batch = rows.length;
  const length = rows[0]!.length;
  const mask = tensor(
    "f32",
    [batch, length],
    Array.from({ length: batch * length }, (_, i) => (i < padding ? 0 : 1)),
  );
  const position = (row: number, t: number): number => Math.max(0, t - (row === 0 ? padding : 0));
  const positions = (start: number, size: number): Tensor =>
    tensor(
      "i32",
      [batch, size],
      Array.from({ length: batch * size }, (_, i) => position(Math.floor(i / size), start + (i % size))),
    );
  let out = run.run({ ids: ids(...rows), mask, positions: positions(0, length) }, { phase: "prefill" });
  const generated: number[][] = rows.map(() => []);
  for (let i = 0; i < count; i++) {
    const next = [...out["argmax"]!.data];
    next.forEach((id, row) => generated[row]!.push(id));
    out = run.run({ ids: ids(...next.map((id) => [id])), mask, positions: positions(length + i, 1) }, { phase: "decode" });
  }
  return generated;
}

import { describe, expect, test } from "vitest";
import { wgslBackend } from "../../../backends/wgsl/index.ts";
import type { Source } from "../../../compiler/backend.ts";
import type { DType } from "../../../compiler/ir/dtype.ts";
import { add, cast, i32, intVar, load, mul } from "../../../compiler/ir/expr.ts";
import type { Config, GemmProblem } from "../../../compiler/template.ts";
import { gemm } from "../../../compiler/templates/gemm.ts";
import { placed } from "../../support/placed.ts";
import { nullGpu } from "../../support/webgpu.ts";
import { faultsOf, validator } from "../../support/wgsl-run.ts";

const caps = wgslBackend.caps("large-sg32-f16-mat");

function product(weight: DType, weights: number, k: number): GemmProblem {
  const m = intVar("seq", 1, 512);
  const n = 512;
  const names = Array.from({ length: weights }, (_, i) => `p${i + 2}`);
  return {
    frame: {
      name: "product",
      symbols: [m],
      params: [
        { name: "p0", dtype: "f32", access: "read", elements: 512 * k },
        { name: "p1", dtype: "f32", access: "write", elements: 512 * n },
        ...names.map((name) => ({ name, dtype: weight, access: "read" as const, elements: n * k })),
      ],
    },
    m,
    n,
    k,
    a: { stat: null, value: (row, col) => load("p0", "f32", add(mul(row, k), col)) },
    weights: names.map((buffer) => ({ buffer, dtype: weight, panel: 0 })),
    outs: [
      {
        buffer: "p1",
        dtype: "f32",
        index: (row, col) => add(mul(row, n), col),
        value: (acc) => acc.reduce((x, y) => mul(x, y)),
        columns: null,
      },
    ],
  };
}

const configsOf = (p: GemmProblem): readonly Config[] => gemm.configs(p, caps) as readonly Config[];
const printed = (p: GemmProblem, config: Config): Source =>
  wgslBackend.print(wgslBackend.legalize!(placed(gemm.build(p, config, caps), caps), caps), caps);

describe("products by subgroup matrices", () => {
  test("are of weights that are stored as halves, and of no others: what they are staged as is what they are", () => {
    const unit = (p: GemmProblem): string => caps.units[configsOf(p)[0]!["unit"]!]!.name;
    expect(unit(product("f16", 1, 1024))).toBe("subgroup_matrix.16x16x16");
    expect(unit(product("bf16", 1, 1024))).toMatch(/^fma/);
    expect(unit(product("f32", 1, 1024))).toMatch(/^fma/);
  });

  test("keep their sums in matrices from before the loop over k until after it", () => {
    const p = product("f16", 1, 1024);
    const { text } = printed(p, configsOf(p)[0]!);
    const lines = text.split("\n");
    const at = (what: RegExp): number[] => lines.flatMap((l, i) => (what.test(l) ? [i] : []));
    const loop = at(/^ {2}for \(var v_kc/)[0]!;
    const end = lines.indexOf("  }", loop);
    expect(at(/= subgroup_matrix_result<f32, 16, 16>\(\);/).every((i) => i < loop)).toBe(true);
    expect(at(/subgroupMatrixMultiplyAccumulate/).every((i) => i > loop && i < end)).toBe(true);
    expect(at(/subgroupMatrixStore/).every((i) => i > end)).toBe(true);
    expect(at(/subgroupMatrixStore/).length).toBeGreaterThan(0);
  });

  test("are what Dawn takes for valid, whatever their tiles", async () => {
    const device = await validator(nullGpu({ enable: ["allow_unsafe_apis"] }), caps);
    const most = device.adapterInfo.subgroupMaxSize ?? 0;
    expect(most).toBeGreaterThan(0);
    let tried = 0;
    for (const p of [product("f16", 1, 1024), product("f16", 2, 1000)])
      for (const config of configsOf(p)) {
        const source = printed(p, config);
        // a workgroup has to be whole subgroups of the widest kind that the device may choose
        if (!caps.units[config["unit"]!]!.name.startsWith("subgroup") || source.launch!.threads % most !== 0) continue;
        expect(await faultsOf(device, source, caps)).toEqual([]);
        tried++;
      }
    expect(tried).toBeGreaterThan(3);
  });

  test("a sum that is used between products goes through registers", async () => {
    const device = await validator(nullGpu({ enable: ["allow_unsafe_apis"] }), caps);
    const p = product("f16", 1, 64);
    const config = configsOf(p).find(
      (c) => caps.units[c["unit"]!]!.name.startsWith("subgroup") && c["groupRows"]! * c["groupCols"]! * caps.lanes === 128,
    )!;
    const thread = wgslBackend.legalize!(placed(gemm.build(p, config, caps), caps), caps);
    const loop = thread.body.findIndex((s) => s.op === "for");
    const acc = thread.regs.find((r) => r.name.startsWith("acc"))!.name;
    const changed = thread.body.map((s, i) =>
      i === loop && s.op === "for"
        ? { ...s, body: [...s.body, { op: "assign", reg: acc, index: i32(0), value: cast(i32(1), "f32") } as const] }
        : s,
    );
    const source = wgslBackend.print({ ...thread, body: changed }, caps);
    expect(source.text).toMatch(/subgroupMatrixLoad<subgroup_matrix_result<f32, 16, 16>, row_major>\(&matrices/);
    expect(await faultsOf(device, source, caps)).toEqual([]);
  });
});

import type { DType } from "../../compiler/ir/dtype.ts";
import { Arith } from "./arith.ts";
import { memoryType } from "./micro-kernel.ts";
import type { ModuleText } from "./module-text.ts";
import { FunctionText } from "./module-text.ts";

/**
 * Copies `width` columns of a strided matrix into rows of adjacent f32 elements, as the micro-kernel reads them: dst[k * width + c] =
 * src[k * rowStride + c * colStride]. Where steps of k are adjacent in memory (`transposed`) squares of lanes x lanes are transposed in registers.
 */
export function packer(module: ModuleText, dtype: DType, width: number, transposed: boolean): string {
  const name = `@pack_${dtype}_${width}${transposed ? "_t" : ""}`;
  return module.helper(name, () => text(module, name, dtype, width, transposed));
}

function text(module: ModuleText, name: string, dtype: DType, width: number, transposed: boolean): string {
  const f = new FunctionText(module);
  const lanes = module.level.lanes;
  const v = new Arith(f, lanes, module.level);
  const s = new Arith(f, 0, module.level);
  const T = memoryType(dtype);
  const align = dtype === "f32" ? 4 : 2;
  const widen = (a: Arith, raw: string): string => (dtype === "f32" ? raw : dtype === "bf16" ? a.fromBf16(raw) : a.fromF16(raw));
  const at = (base: string, index: string, type: string): string => f.ins(`getelementptr inbounds ${type}, ${type}* ${base}, i64 ${index}`);

  let done = "0";
  if (transposed) {
    done = f.ins(`and i64 %k, ${-lanes}`);
    f.loop(done, lanes, false, (k) =>
      f.loop(String(width), lanes, true, (c) => {
        const corner = at(at("%src", k, T), f.ins(`mul nsw i64 ${c}, %colStride`), T);
        const wide = v.of(T);
        const columns = Array.from({ length: lanes }, (_, i) => {
          const p = i === 0 ? corner : at(corner, f.ins(`mul nsw i64 %colStride, ${i}`), T);
          return widen(v, f.ins(`load ${wide}, ${wide}* ${f.ins(`bitcast ${T}* ${p} to ${wide}*`)}, align ${align}`));
        });
        const out = at(at("%dst", f.ins(`mul nsw i64 ${k}, ${width}`), "float"), c, "float");
        transpose(f, v, columns).forEach((row, i) => {
          f.effect(`store ${v.F} ${row}, ${v.F}* ${f.ins(`bitcast float* ${at(out, String(i * width), "float")} to ${v.F}*`)}, align 4`);
        });
      }),
    );
  }
  const rest = f.ins(`sub nsw i64 %k, ${done}`);
  f.loop(rest, 1, false, (i) => {
    const k = f.ins(`add nsw i64 ${done}, ${i}`);
    const [from, to] = [at("%src", f.ins(`mul nsw i64 ${k}, %rowStride`), T), at("%dst", f.ins(`mul nsw i64 ${k}, ${width}`), "float")];
    f.loop(String(width), 1, true, (c) => {
      const x = f.ins(`load ${T}, ${T}* ${at(from, f.ins(`mul nsw i64 ${c}, %colStride`), T)}, align ${align}`);
      f.effect(`store float ${widen(s, x)}, float* ${at(to, c, "float")}, align 4`);
    });
  });
  f.effect("ret void");
  return `define internal void ${name}(float* noalias %dst, ${T}* noalias readonly %src, i64 %rowStride, i64 %colStride, i64 %k) #0 noinline {\nentry:\n${f.toString()}\n}\n`;
}

/** A lanes x lanes square in registers: log2(lanes) rounds, each exchanging the off-diagonal blocks of twice the size of the last. */
function transpose(f: FunctionText, v: Arith, rows: readonly string[]): string[] {
  const n = v.lanes;
  let square = [...rows];
  for (let half = 1; half < n; half *= 2) {
    const next = [...square];
    for (let i = 0; i < n; i++) {
      if (i & half) continue;
      const [a, b] = [square[i]!, square[i + half]!];
      const pick = (high: boolean): string => {
        const order = Array.from({ length: n }, (_, lane) => {
          const fromB = (lane & half) !== 0;
          return `i32 ${fromB ? n + (high ? lane : lane - half) : high ? lane + half : lane}`;
        });
        return f.ins(`shufflevector ${v.F} ${a}, ${v.F} ${b}, <${n} x i32> <${order.join(", ")}>`);
      };
      next[i] = pick(false);
      next[i + half] = pick(true);
    }
    square = next;
  }
  return square;
}

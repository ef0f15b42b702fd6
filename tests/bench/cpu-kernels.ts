import { caps } from "../../backends/llvm/caps.ts";
import { print } from "../../backends/llvm/print.ts";
import { toolchain } from "../../backends/llvm/toolchain.ts";
import { BYTES } from "../../compiler/ir/dtype.ts";
import { add, evaluateInt, i32, load, mul } from "../../compiler/ir/expr.ts";
import type { GemmProblem } from "../../compiler/template.ts";
import { gemm } from "../../compiler/templates/gemm.ts";
import { gemv } from "../../compiler/templates/gemv.ts";
import type { CpuDevice } from "../../runtime/drivers/cpu/device.ts";
import { openCeilings } from "../../runtime/drivers/cpu/ceilings.ts";
import { cpu } from "../../runtime/drivers/cpu/device.ts";
import { placed } from "../support/placed.ts";

/**
 * Matrix products on the CPU against what the machine can do at that moment: `npx tsx tests/bench/cpu-kernels.ts [threads ...]`. Each product is
 * measured in turn with the ceiling it is compared with, many times over, and the best of each is taken: machines are shared.
 */
interface Shape {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly dtype: "f32" | "bf16" | "f16";
}

// The projections of a 1.2-billion-parameter Bamba, one token and a prompt of 512.
const shapes: readonly Shape[] = [
  { m: 1, n: 14336, k: 2048, dtype: "bf16" },
  { m: 1, n: 2048, k: 7168, dtype: "bf16" },
  { m: 1, n: 8512, k: 2048, dtype: "f32" },
  { m: 4, n: 14336, k: 2048, dtype: "bf16" },
  { m: 512, n: 2048, k: 2048, dtype: "f32" },
  { m: 512, n: 2048, k: 2048, dtype: "bf16" },
  { m: 512, n: 2048, k: 2048, dtype: "f16" },
  { m: 512, n: 2048, k: 7168, dtype: "bf16" },
];

const SECONDS = 3;
const target = caps("host");

function problem({ m, n, k, dtype }: Shape): GemmProblem {
  return {
    frame: {
      name: "bench",
      params: [
        { name: "p0", dtype: "f32", access: "read" },
        { name: "p1", dtype, access: "read" },
        { name: "p2", dtype: "f32", access: "write" },
      ],
      symbols: [],
    },
    m: i32(m),
    n,
    k,
    a: { stat: null, value: (row, at) => load("p0", "f32", add(mul(row, k), at)) },
    weights: [{ buffer: "p1", dtype, panel: target.panel }],
    outs: [{ buffer: "p2", dtype: "f32", index: (row, col) => add(mul(row, n), col), value: ([acc]) => acc!, columns: null }],
  };
}

async function measure(device: CpuDevice, shape: Shape): Promise<void> {
  const { m, n, k, dtype } = shape;
  const template = m <= 4 ? gemv : gemm;
  const p = problem(shape);
  const configs = template.configs(p, target);
  if ("reject" in configs) throw new Error(configs.reject);
  const program = placed(template.build(p, configs[0]!, target), target);
  const source = print(program, target);
  const module = await device.load(await toolchain.compile([source], target));
  // As many copies of the weights as it takes for none of them to be in a cache when its turn comes.
  const bytes = Math.ceil(n / target.panel) * target.panel * k * BYTES[dtype];
  const copies = m <= 4 ? Math.ceil((256 << 20) / bytes) : 1;
  const [a, o] = [device.alloc(m * k * 4, "io"), device.alloc(m * n * 4, "io")];
  new Float32Array(a.host!.buffer, a.host!.byteOffset, m * k).fill(0.5);
  const weights = Array.from({ length: copies }, () => device.alloc(bytes, "weights"));
  const one = { f32: 0x3f800000, bf16: 0x3f80, f16: 0x3c00 }[dtype];
  for (const w of weights)
    if (dtype === "f32") new Int32Array(w.host!.buffer, w.host!.byteOffset, bytes / 4).fill(one);
    else new Uint16Array(w.host!.buffer, w.host!.byteOffset, bytes / 2).fill(one);
  const kernel = module.kernel(source.entry);
  const list = device.prepare(
    weights.map((w) => ({
      kernel,
      args: [a, w, o].map((buffer) => ({ buffer, offset: 0 })),
      symbols: [],
      sharedBytes: source.sharedBytes,
    })),
    [],
  );
  const grid = program.grid.map((g) => evaluateInt(g, {}));
  for (let i = 0; i < copies; i++) list.grids.set(grid, 3 * i);

  const ceilings = await openCeilings(device, 256);
  let [time, ceiling] = [Infinity, 0];
  for (const end = performance.now() + SECONDS * 1000; performance.now() < end;) {
    ceiling = Math.max(ceiling, await (m <= 4 ? ceilings.readBandwidth() : ceilings.fmaRate()));
    const times = await list.runTimed();
    time = Math.min(time, times.reduce((x, y) => x + y) / copies);
  }
  const result = new Float32Array(o.host!.buffer, o.host!.byteOffset, m * n);
  if (result[m * n - 1] !== k / 2) throw new Error(`wrong result ${result[m * n - 1]}`);
  const rate = m <= 4 ? bytes / time : (2 * m * n * k) / time;
  const [unit, what] = m <= 4 ? ["GB/s", "read"] : ["GFLOP/s", "FMA"];
  console.log(
    `${device.workers} thread(s)  ${String(m).padStart(3)} x ${String(n).padStart(5)} x ${String(k).padStart(4)} ${dtype.padEnd(4)}` +
      `  ${rate.toFixed(1).padStart(6)} ${unit}, ${((100 * rate) / ceiling).toFixed(0)} % of the ${what} rate ${ceiling.toFixed(1)}   ${JSON.stringify(configs[0])}`,
  );
  for (const x of [list, ceilings, module, a, o, ...weights]) x.free();
}

const threads = process.argv.slice(2).map(Number);
for (const n of threads.length > 0 ? threads : [1, 2]) {
  const device = await cpu.open({ threads: n });
  for (const shape of shapes) await measure(device, shape);
  await device.close();
}

import { llvmBackend } from "../../backends/llvm/index.ts";
import { compileModel } from "../../compiler/compile.ts";
import { sampleGraph } from "../../models/auto/sample.ts";
import { cpu } from "../../runtime/drivers/cpu/device.ts";
import type { Executor } from "../../runtime/executor.ts";
import { openArtifact } from "../../runtime/steps.ts";

/** Rows at a time of the compiled program that chooses tokens, alone: settings and logits go in, tokens and scores come out. */
export interface SampleProgram {
  readonly executor: Executor;
  /** @param rows of `vocab` logits, and of 6 settings; `seen` ids of each row. The results are copies. */
  run(
    logits: readonly ArrayLike<number>[],
    settings: readonly ArrayLike<number>[],
    seen?: readonly ArrayLike<number>[],
  ): Promise<{ readonly tokens: Int32Array; readonly scores: readonly Float32Array[] }>;
  close(): Promise<void>;
}

/** Compiles it for the host. */
export async function openSampleProgram(vocab: number, maxRows: number, threads = 1): Promise<SampleProgram> {
  const device = await cpu.open({ threads });
  const caps = { ...llvmBackend.caps("host"), workers: threads };
  const programs = [{ name: "sample", graph: sampleGraph(vocab, maxRows === 1 ? 1 : [1, maxRows]) }];
  const artifact = await compileModel({ name: "sample", programs, backend: llvmBackend, caps, metadata: {} });
  const none = { path: "nothing", tensors: new Map(), readInto: () => Promise.reject(new Error("there are no weights")) };
  const executor = await openArtifact(device, artifact, none);
  const input = <T>(name: string): T => executor.input(name) as T;
  return {
    executor,
    async run(logits, settings, seen = []) {
      const rows = logits.length;
      logits.forEach((row, i) => input<Float32Array>("logits").set(row, i * vocab));
      settings.forEach((row, i) => input<Float32Array>("settings").set(row, i * 6));
      const flags = input<Uint8Array>("seen").fill(0);
      seen.forEach((ids, row) => {
        for (const id of Array.from(ids)) flags[row * vocab + id] = 1;
      });
      await executor.run("sample", { batch: rows });
      const scores = executor.output("scores") as Float32Array;
      return {
        tokens: (executor.output("token") as Int32Array).slice(0, rows),
        scores: Array.from({ length: rows }, (_, row) => scores.slice(row * vocab, (row + 1) * vocab)),
      };
    },
    async close() {
      executor.close();
      await device.close();
    },
  };
}

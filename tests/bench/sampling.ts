import { openSampleProgram } from "../support/sample-program.ts";

/**
 * Time to choose a token from a row of 128 256 logits (Bamba's vocabulary padded) in the compiled program, by what is asked for: `npx tsx
 * tests/bench/sampling.ts`. One thread, one row; the best of many runs, since machines are shared, with the processors' and the draw's parts.
 */
const vocab = 128_256;
const runs = 200;

const cases: readonly (readonly [what: string, settings: readonly number[]])[] = [
  ["likeliest", [1, 1, 0, 1, 0, -1]],
  ["likeliest, penalty", [1.2, 1, 0, 1, 0, -1]],
  ["draw, temperature", [1, 0.7, 0, 1, 0, 0.5]],
  ["draw, min-p", [1, 1, 0, 1, 0.05, 0.5]],
  ["draw, top-k", [1, 1, 50, 1, 0, 0.5]],
  ["draw, top-p", [1, 1, 0, 0.9, 0, 0.5]],
  ["draw, all", [1.2, 0.7, 50, 0.9, 0.05, 0.5]],
];

const program = await openSampleProgram(vocab, 1);
const logits = Float32Array.from({ length: vocab }, (_, i) => Math.sin(i * 78.233) * 5 + Math.sin(i * 0.37) * 3);
for (const [what, settings] of cases) {
  await program.run([logits], [settings]);
  let best = [Infinity, Infinity];
  for (let i = 0; i < runs; i++) {
    const times = (await program.executor.profile!("sample", {})).map(({ milliseconds }) => milliseconds);
    if (times[0]! + times[1]! < best[0]! + best[1]!) best = times;
  }
  console.log(
    `${what.padEnd(20)} ${(best[0]! + best[1]!).toFixed(3)} ms   processors ${best[0]!.toFixed(3)}, token ${best[1]!.toFixed(3)}`,
  );
}
await program.close();

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openCausalLM } from "../../models/auto/index.ts";
import type { BambaForCausalLM } from "../../models/auto/index.ts";
import { writeSafetensors } from "../../runtime/node/write-safetensors.ts";
import { encodeFloats } from "../../runtime/numeric.ts";
import { json, prompt, weights } from "../support/spec-model.ts";
import { forwarded } from "../support/running.ts";

// The vectors of the specification, section (h), on compiled kernels.
const folder = mkdtempSync(join(tmpdir(), "culm-spec-"));
let model: BambaForCausalLM;
beforeAll(async () => {
  writeFileSync(join(folder, "config.json"), JSON.stringify({ ...json, architectures: ["BambaForCausalLM"] }));
  const tensors = weights.map(({ name, shape, value }) => ({
    name,
    dtype: "F32" as const,
    shape: [...shape],
    data: encodeFloats("F32", Float32Array.from(value.data)),
  }));
  writeSafetensors(join(folder, "model.safetensors"), tensors);
  model = await openCausalLM(folder, { batch: 2, maxLength: 64 });
});
afterAll(async () => {
  await model.close();
  rmSync(folder, { recursive: true });
});

const ids = Int32Array.from(prompt);
const expectClose = (got: ArrayLike<number>, expected: readonly number[]): void => {
  for (const [i, e] of expected.entries()) expect(Math.abs(got[i]! - e), `element ${i}: ${got[i]!} and ${e}`).toBeLessThan(2e-5);
};

test("logits, hidden states and loss", async () => {
  const labels = Int32Array.from(prompt, (id, i) => (i < 3 ? -100 : id));
  const { logits, hiddenStates, loss } = await forwarded(model, { inputIds: [ids], labels: [labels], outputHiddenStates: true });
  expectClose(logits, [0.954566, 0.879957, 0.835274, -1.85, -0.583469, 0.655019, 0.095269, -1.40602]);
  expectClose(logits.subarray(10 * 64), [-1.35522, -1.20334, -1.31188, 0.462996, -0.626737, -0.900044, 0.137881, -0.565932]);
  expect(Math.abs(logits.reduce((a, b) => a + b, 0) + 8.78342)).toBeLessThan(1e-3);
  expect(Math.abs(logits.reduce((a, b) => a + b * b, 0) - 738.71747)).toBeLessThan(1e-2);
  const at10 = (layer: number): Float32Array => hiddenStates[layer]!.subarray(10 * 32);
  expectClose(at10(0), [-0.568496, 0.0964476, -0.162348]);
  expectClose(at10(1), [-1.56238, 0.823219, -0.32624]);
  expectClose(at10(2), [-2.78072, -0.397675, -1.21881]);
  expectClose(at10(3), [-2.94087, 0.210557, -3.85906]);
  expectClose(at10(4), [-1.07893, 0.436086, -1.71556]);
  expect(Math.abs(loss! - 4.9689479)).toBeLessThan(2e-5);
});

test("greedy tokens, alone and in a padded batch, and an end token", async () => {
  const alone = await model.generate(ids, { maxNewTokens: 12, eosTokenId: [] });
  expect([...alone.newTokens[0]!]).toEqual([28, 55, 30, 15, 43, 18, 53, 37, 55, 61, 33, 16]);
  const row1 = Array.from({ length: 14 }, (_, i) => 5 + i);
  const batch = {
    inputIds: [Int32Array.from([0, 0, 0, ...prompt]), Int32Array.from(row1)],
    attentionMask: [Int32Array.from([0, 0, 0, ...prompt.map(() => 1)]), Int32Array.from(row1.map(() => 1))],
  };
  const padded = await model.generate(batch, { maxNewTokens: 8, eosTokenId: [] });
  expect([...padded.newTokens[0]!]).toEqual([28, 55, 30, 15, 43, 18, 53, 37]);
  expect([...padded.newTokens[1]!]).toEqual([46, 62, 61, 5, 5, 50, 46, 62]);
  const ended = await model.generate(ids, { maxNewTokens: 10, eosTokenId: 30 });
  expect([...ended.newTokens[0]!]).toEqual([28, 55, 30]);
});

test("beams and their scores", async () => {
  const settings = { maxNewTokens: 8, eosTokenId: [], numBeams: 3, numReturnSequences: 3 };
  const { newTokens, sequencesScores } = await model.generate(ids, settings);
  expect(newTokens.map((tokens) => [...tokens])).toEqual([
    [28, 55, 26, 17, 22, 25, 14, 43],
    [28, 55, 26, 17, 22, 22, 3, 37],
    [28, 55, 26, 17, 22, 22, 55, 25],
  ]);
  expectClose(sequencesScores!, [-2.14147, -2.19725, -2.2149]);
});

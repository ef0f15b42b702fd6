import { expect, test } from "vitest";
import { watchStart } from "../../runtime/cli/verbose.ts";
import { culm } from "../support/cli.ts";
import { tinyFolder } from "../support/model-folder.ts";

test("--verbose tells of memory and of how long the start took, on standard error alone", async () => {
  const flags = ["--model", tinyFolder, "--prompt", "It was", "--max-new-tokens", "2", "--max-length", "64"];
  const quiet = await culm("generate", ...flags);
  const told = await culm("generate", ...flags, "--verbose");
  expect(told.out).toBe(quiet.out);
  expect(told.err).toMatch(/(compiled|kernels of an earlier start) for llvm x86-64\S* in [\d.]+ m?s/);
  expect(told.err).toMatch(
    /^memory [\d.]+ MB: weights 1\d\.\d MB, states .*, keys and values .* \(.* a position, 64 positions, 1 row\), /m,
  );
  expect(told.err).toMatch(/^loaded 13\.\d MB of weights$/m);
  expect(told.err).toMatch(/^open .* after the program began\nfirst token .* after the program began$/m);
  expect(quiet.err).not.toContain("memory");
});

test("the rate of loading is that between the first look and the last", () => {
  let clock = 0;
  const seen: number[] = [];
  const { options, report } = watchStart({ onLoad: (bytes) => void seen.push(bytes) }, () => clock);
  for (const [at, bytes] of [
    [1000, 1e9],
    [1500, 5e9],
    [2000, 9e9],
  ] as const) {
    clock = at;
    options.onLoad!(bytes, 9e9);
  }
  expect(seen).toEqual([1e9, 5e9, 9e9]);
  expect(report({ compiled: null, backend: "cuda" })).toBe("loaded 9.00 GB of weights, 8.00 GB/s\nopen 2.00 s after the program began\n");
});

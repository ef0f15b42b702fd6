import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { verify } from "../../compiler/ir/graph-verify.ts";
import { graph } from "../types/readme.ts";

const read = (file: string): string => readFileSync(new URL(`../../${file}`, import.meta.url), "utf8");

test("the README's model is the one that is type-checked and traced here", () => {
  const code = /```ts\n(import \{ attention[\s\S]*?)```/.exec(read("README.md"))?.[1];
  expect(code).toBe(read("tests/types/readme.ts"));
  verify(graph);
  expect(graph.outputs.map((o) => o.name)).toEqual(["logits"]);
  expect(code!.trimEnd().split("\n").length).toBeLessThanOrEqual(30);
});

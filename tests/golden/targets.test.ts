import { readFileSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";

/** One kernel in two dialects of C: docs/architecture.md shows their goldens side by side. UPDATE=1 puts the present ones there. */
const golden = (target: string, first: RegExp): string => {
  const text = readFileSync(new URL(`./text/decode/${target}/attention.attention_combine.attention.txt`, import.meta.url), "utf8");
  return text.slice(first.exec(text)!.index).trim();
};
const cuda = golden("cuda-sm_90", /^static __device__/m);
const metal = golden("metal-m4", /^#include/m);

test("the document shows both as they are", () => {
  const page = new URL("../../docs/architecture.md", import.meta.url);
  const text = readFileSync(page, "utf8");
  const [before, , after] = text.split(/(?<=<!-- two goldens -->\n)([^]*)(?=<!-- end of goldens -->)/);
  const cell = (name: string, language: string, source: string): string => `<td>\n\n${name}\n\n\`\`\`${language}\n${source}\n\`\`\`\n\n</td>`;
  const table = `\n<table>\n<tr valign="top">\n${cell("`cuda:sm_90`", "cuda", cuda)}\n${cell("`metal:m4`", "metal", metal)}\n</tr>\n</table>\n\n`;
  const expected = `${before!}${table}${after!}`;
  if (process.env["UPDATE"] === "1") writeFileSync(page, expected);
  else expect(text).toBe(expected);
});

test("their statements differ in spelling alone", () => {
  const statements = (text: string): string => text.slice(text.indexOf("  float r_"));
  const spelled = statements(cuda)
    .replace(/^ {2}asm volatile\(.*\n/gm, "")
    .replaceAll("*reinterpret_cast<const float2*>(", "*(device const float2*)(")
    .replaceAll("exp2_f32(", "precise::exp2(");
  expect(statements(metal)).toBe(spelled);
});

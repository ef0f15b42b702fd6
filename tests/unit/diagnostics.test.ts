import { expect, test } from "vitest";
import { CulmError, printDiagnosis } from "../../compiler/diagnostics.ts";

test("a full diagnosis", () => {
  const error = new CulmError({
    what: "inner sizes differ",
    at: { file: "models/bamba/model.ts", line: 42, col: 7 },
    path: "layers.9.mamba.out_proj",
    operands: [
      { label: "x", is: "[batch, seq, inner=8192]", from: "from gatedRmsNorm at model.ts:41:10" },
      { label: "w", is: "[hidden=4096, inner=8448]", from: "from checkpoint tensor out_proj.weight in model-00002-of-00004.safetensors" },
    ],
    expected: "8192",
    got: "8448",
    fix: "check config.json",
  });
  expect(error.message).toMatchInlineSnapshot(`
    "models/bamba/model.ts:42:7  layers.9.mamba.out_proj: inner sizes differ
      x         [batch, seq, inner=8192]   from gatedRmsNorm at model.ts:41:10
      w         [hidden=4096, inner=8448]  from checkpoint tensor out_proj.weight in model-00002-of-00004.safetensors
      expected  8192
      got       8448
      fix: check config.json"
  `);
  expect(error).toMatchObject({
    name: "UserError",
    what: "inner sizes differ",
    where: "models/bamba/model.ts:42:7  layers.9.mamba.out_proj",
    fix: "check config.json",
  });
});

test("what is not known is left out", () => {
  expect(printDiagnosis({ what: "config.json is not JSON" })).toBe("config.json is not JSON");
  expect(printDiagnosis({ what: "bad field", path: "config.json: mamba_expand" })).toBe("config.json: mamba_expand: bad field");
  expect(printDiagnosis({ what: "w", operands: [{ label: "a", is: "f32[]", from: "" }] })).toBe("w\n  a  f32[]");
});

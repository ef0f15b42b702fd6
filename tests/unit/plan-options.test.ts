import { describe, expect, test } from "vitest";
import { bambaGraph } from "../../models/bamba/index.ts";
import { planModel } from "../../models/auto/plan.ts";
import type { PlanOptions } from "../../models/auto/plan.ts";
import { models } from "../support/kernels.ts";

const replayOf = (options: PlanOptions, backend: string): number => planModel(models["9B"], "bf16", options, backend).replay;

describe("inputs that are kept beside the states", () => {
  test("are 16 where a step of many rows gains by it", () => {
    expect(replayOf({ batch: 8, state: "bf16" }, "cuda")).toBe(16);
    expect(replayOf({ batch: 64, state: "bf16" }, "cuda")).toBe(16);
  });

  test.each<[string, PlanOptions, string]>([
    ["few rows", { batch: 4, state: "bf16" }, "cuda"],
    ["states of 32 bits", { batch: 64 }, "cuda"],
    ["processors", { batch: 64, state: "bf16" }, "llvm"],
    ["WebGPU, whose kernels bind too few buffers", { batch: 64, state: "bf16" }, "webgpu"],
    ["strict, which is to store each step", { batch: 64, strict: true }, "cuda"],
  ])("are none for %s", (_, options, backend) => {
    expect(replayOf(options, backend)).toBe(0);
  });

  test("are as many as one asks for", () => {
    expect(replayOf({ batch: 64, state: "bf16", replay: 0 }, "cuda")).toBe(0);
    expect(replayOf({ batch: 1, replay: 8 }, "llvm")).toBe(8);
    expect(() => replayOf({ replay: 33 }, "cuda")).toThrow("expected 0 or a whole number from 2 to 32, got 33");
    expect(() => replayOf({ strict: true, replay: 8 }, "cuda")).toThrow("strict");
    expect(() => replayOf({ replay: 8 }, "webgpu")).toThrow("binds more buffers");
  });
});

describe("activations", () => {
  test("are f32 unless asked for, and not rounded twice", () => {
    expect(planModel(models["9B"], "bf16", { state: "bf16" }, "cuda").activations).toBe("f32");
    expect(planModel(models["9B"], "bf16", { activations: "bf16" }).activations).toBe("bf16");
    expect(() => planModel(models["9B"], "bf16", { activations: "bf16", strict: true })).toThrow(
      "strict (--strict) rounds as Transformers",
    );
    const options = { phase: "decode", batch: 1, capacity: 8, strict: true, activations: "bf16" } as const;
    expect(() => bambaGraph(models["9B"], options)).toThrow("strict rounds to the type of the weights");
  });
});

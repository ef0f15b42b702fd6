import fc from "fast-check";
import { test } from "vitest";
import { variable } from "../../compiler/ir/expr.ts";
import { compileExpr } from "../../compiler/run/eval.ts";
import { HALVINGS, halfway } from "../../compiler/templates/bisect.ts";

const { fround } = Math;
const cells = { low: { value: 0 }, high: { value: 0 } };
const middleOf = compileExpr(halfway(variable("low", "f32"), variable("high", "f32")), {
  variable: ({ name }) => cells[name as keyof typeof cells],
});

/** Numbers of every size, ends and neighbours among them. */
const number = fc.oneof(
  fc.float({ noNaN: true, noDefaultInfinity: true }),
  fc.constantFrom(0, 2 ** -149, -(2 ** -149), 2 ** -126, 1, fround(1 + 2 ** -23), 3.4028234663852886e38, -3.4028234663852886e38),
);

test("bisection ends at any number, from anywhere above it", () => {
  fc.assert(
    fc.property(number, number, (a, b) => {
      const [sought, top] = [Math.min(a, b), Math.max(a, b)];
      let [low, high] = [-Infinity, top];
      for (let i = 0; i < HALVINGS; i++) {
        cells.low.value = low;
        cells.high.value = high;
        const middle = fround(middleOf());
        if (!(low <= middle && middle <= high)) throw new Error(`${middle} is not between ${low} and ${high}`);
        if (middle >= sought) high = middle;
        else low = middle;
      }
      if (high !== sought) throw new Error(`found ${high}`);
    }),
    { numRuns: 20_000 },
  );
});

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  DEFAULTS,
  fault,
  fieldNames,
  FIELDS,
  generationSettings,
  parseSeed,
  read,
  seedFault,
  written,
} from "../../../runtime/web/page/settings.ts";
import type { FieldName, Settings } from "../../../runtime/web/page/settings.ts";
import { checkOptions } from "../../../runtime/text/generation-options.ts";

/** What a slider can be set to. */
const number = (name: FieldName): fc.Arbitrary<number> => {
  const { min, max, step } = FIELDS[name];
  return step === 1 ? fc.integer({ min, max }) : fc.double({ min, max, noNaN: true }).map((value) => Number(value.toFixed(2)) + 0);
};
const settings: fc.Arbitrary<Settings> = fc.record({
  draw: fc.boolean(),
  temperature: number("temperature"),
  topK: number("topK"),
  topP: number("topP"),
  minP: number("minP"),
  repetitionPenalty: number("repetitionPenalty"),
  maxNewTokens: number("maxNewTokens"),
  seed: fc.option(fc.maxSafeNat(), { nil: null }),
});

describe("what is kept", () => {
  test("is read as it was written, prompts with any characters included", () => {
    fc.assert(
      fc.property(fc.option(fc.string({ unit: "grapheme" }), { nil: null }), settings, (prompt, of) => {
        expect(read(written({ prompt, settings: of }))).toEqual({ prompt, settings: of });
      }),
    );
  });

  test("is nothing where all is as it was", () => {
    expect(written({ prompt: null, settings: DEFAULTS })).toBe("");
    expect(read("")).toEqual({ prompt: null, settings: DEFAULTS });
  });

  test.each(["temperature=-1", "temperature=NaN", "topK=2.5", "maxNewTokens=1e9", "topP=", "minP=x", "seed=-3", "seed=1e400", "unknown=1"])(
    "takes nothing bad from a link: %s",
    (query) => expect(read(query).settings).toEqual(DEFAULTS),
  );

  test("takes the good beside the bad", () => {
    const { settings: of, prompt } = read("prompt=Call%20me&temperature=99&topK=7&draw=no&seed=12");
    expect(prompt).toBe("Call me");
    expect(of).toEqual({ ...DEFAULTS, topK: 7, draw: false, seed: 12 });
  });
});

describe("what is typed", () => {
  test.each([
    ["temperature", 0, "Enter a number from 0.05 to 2."],
    ["temperature", NaN, "Enter a number."],
    ["topK", 0.5, "Enter a whole number."],
    ["topP", 1.01, "Enter a number from 0.01 to 1."],
    ["maxNewTokens", 0, "Enter a number from 1 to 1024."],
    ["maxNewTokens", 1, null],
    ["topP", 1, null],
  ] as const)("%s %d: %s", (name, value, expected) => expect(fault(name, value)).toBe(expected));

  test("a seed is a whole number that a double holds, or nothing", () => {
    for (const good of ["", "0", "7", String(Number.MAX_SAFE_INTEGER)]) expect(seedFault(good)).toBeNull();
    for (const bad of ["-1", "1.5", "0x10", "1e3", " ", "9007199254740993"]) expect(seedFault(bad)).toMatch(/whole number/);
    expect(parseSeed("")).toBeNull();
    expect(parseSeed("42")).toBe(42);
  });

  test("the defaults are good", () => {
    for (const name of fieldNames) expect(fault(name, DEFAULTS[name])).toBeNull();
  });
});

describe("what the loop is given", () => {
  test("is what it accepts, whatever the controls say", () => {
    fc.assert(
      fc.property(settings, (of) => {
        const given = generationSettings(of);
        const checked = checkOptions((name) => ({ value: (given as Readonly<Record<string, unknown>>)[name], field: name }));
        expect(Object.keys(checked).sort()).toEqual(Object.keys(given).sort());
      }),
    );
  });

  test("has nothing about drawing where nothing is drawn", () => {
    expect(generationSettings({ ...DEFAULTS, draw: false, seed: 3 })).toEqual({
      doSample: false,
      repetitionPenalty: DEFAULTS.repetitionPenalty,
      maxNewTokens: DEFAULTS.maxNewTokens,
    });
  });

  test("has a seed only where one was chosen", () => {
    expect(generationSettings(DEFAULTS)).not.toHaveProperty("seed");
    expect(generationSettings({ ...DEFAULTS, seed: 0 })).toMatchObject({ doSample: true, seed: 0 });
  });
});

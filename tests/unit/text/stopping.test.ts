import { afterEach, describe, expect, test, vi } from "vitest";
import { loadTokenizer } from "../../../runtime/text/auto-tokenizer.ts";
import { resolveGeneration } from "../../../runtime/text/generation-config.ts";
import type { GenerationOptions } from "../../../runtime/text/generation-config.ts";
import type { RowContext, StoppingCriterion } from "../../../runtime/text/processor.ts";
import { buildStopping } from "../../../runtime/text/stopping.ts";
import type { Decoder } from "../../../runtime/text/streamer.ts";

const model = { bosTokenId: 1, eosTokenIds: [2], padTokenId: 0, maxPositionEmbeddings: 1000 };
const build = (options: GenerationOptions, decoder?: Decoder): readonly StoppingCriterion[] =>
  buildStopping(resolveGeneration(options, undefined, model, 1), decoder);
const row = (ids: Iterable<number>): RowContext => ({ ids: Int32Array.from(ids), promptLength: 1, row: 0, prompt: 0 });

afterEach(() => vi.restoreAllMocks());

test("which criteria there are, and their names", () => {
  const mine = { name: "mine", stops: (): boolean => false };
  const decoder = { decode: (): string => "" };
  const names = (options: GenerationOptions): string[] => build(options, decoder).map(({ name }) => name);
  expect(names({})).toEqual(["eos"]);
  expect(names({ eosTokenId: [] })).toEqual([]);
  expect(names({ stopStrings: ["x"], maxTime: 1, stoppingCriteria: [mine] })).toEqual(["eos", "stopStrings", "maxTime", "mine"]);
});

test("an end token ends a row as its last token", () => {
  const [eos] = build({ eosTokenId: [2, 7] });
  expect([[5, 2], [5, 7], [2, 5], [5]].map((ids) => eos!.stops(row(ids)))).toEqual([true, true, false, false]);
});

test("the time is counted from the start of the generation", () => {
  const now = vi.spyOn(performance, "now").mockReturnValue(10_000);
  const [time] = build({ eosTokenId: [], maxTime: 1.5 });
  const at = (ms: number): boolean => {
    now.mockReturnValue(ms);
    return time!.stops(row([1]));
  };
  expect([10_000, 11_500, 11_501].map(at)).toEqual([false, false, true]);
});

describe("stop strings", () => {
  /** Tokens of this list; an id is a place in it. A token of several bytes that are no characters alone is given as bytes. */
  const decoderOf = (...vocabulary: readonly (string | readonly number[])[]): Decoder => ({
    decode: (ids) => {
      const bytes = ids.flatMap((id) => {
        const token = vocabulary[id]!;
        return typeof token === "string" ? [...new TextEncoder().encode(token)] : token;
      });
      return new TextDecoder().decode(Uint8Array.from(bytes));
    },
  });
  const stops = (stopStrings: string | string[], decoder: Decoder, ids: number[]): boolean =>
    build({ eosTokenId: [], stopStrings }, decoder)[0]!.stops(row(ids));

  test("without a tokenizer are refused", () => {
    expect(() => build({ stopStrings: "x" })).toThrow("stopStrings: there are stop strings");
  });

  test("end a row with the token that completes them, also in its middle, and not afterwards", () => {
    const decoder = decoderOf("st", "op", "opera", "s", "top", " ", "stop", "unstoppable");
    expect(stops("stop", decoder, [0, 1])).toBe(true);
    expect(stops("stop", decoder, [5, 0, 2])).toBe(true);
    expect(stops("stop", decoder, [3, 4])).toBe(true);
    expect(stops("stop", decoder, [6])).toBe(true);
    expect(stops("stop", decoder, [7])).toBe(true);
    expect(stops("stop", decoder, [0])).toBe(false);
    expect(stops("stop", decoder, [0, 5, 1])).toBe(false);
    expect(stops("stop", decoder, [0, 1, 5])).toBe(false);
    expect(stops("stop", decoder, [6, 3])).toBe(false);
    expect(stops("stop", decoder, [7, 5])).toBe(false);
    expect(stops("stop", decoder, [6, 0, 1])).toBe(true);
  });

  test("are several, of different lengths", () => {
    const decoder = decoderOf("a", "b", "c");
    expect(stops(["cab", "bb"], decoder, [2, 0, 1])).toBe(true);
    expect(stops(["cab", "bb"], decoder, [1, 1])).toBe(true);
    expect(stops(["cab", "bb"], decoder, [0, 1])).toBe(false);
    expect(stops("aa", decoder, [0, 0, 0])).toBe(true);
  });

  test("count in the bytes of a character that comes in several tokens", () => {
    const decoder = decoderOf("a", [0xe6, 0x97], [0xa5], "b", [0xa5, 0x62]);
    expect(stops("日", decoder, [0, 1])).toBe(false);
    expect(stops("日", decoder, [0, 1, 2])).toBe(true);
    expect(stops("a日", decoder, [0, 1, 2])).toBe(true);
    expect(stops("日b", decoder, [0, 1, 4])).toBe(true);
    expect(stops("日", decoder, [0, 1, 4])).toBe(true);
    expect(stops("日", decoder, [0, 1, 2, 3])).toBe(false);
    expect(stops("a", decoder, [0, 1])).toBe(false);
  });

  test("of one byte tokens are found whole however long they are, in a long text", () => {
    const decoder = decoderOf(...Array.from({ length: 128 }, (_, code) => String.fromCharCode(code)));
    const stop = "The quick brown fox. ".repeat(5);
    const codes = (text: string): number[] => [...new TextEncoder().encode(text)];
    const text = codes("x".repeat(500) + stop);
    expect(stops(stop, decoder, text)).toBe(true);
    expect(stops(stop, decoder, text.slice(0, -1))).toBe(false);
    expect(stops(stop, decoder, [...text, 120])).toBe(false);
  });

  test("with a leading space are found by a tokenizer that drops the space at the beginning of what it decodes", () => {
    const { decode } = decoderOf(" ", "a", "b");
    const decoder: Decoder = { decode: (ids) => decode(ids).replace(/^ /, "") };
    expect(stops(" ab", decoder, [1, 1, 0, 1, 2])).toBe(true);
    expect(stops(" ab", decoder, [1, 1, 0, 1])).toBe(false);
  });

  test("with the embedded tokenizer end a text where a plain search of the whole text first finds them", () => {
    const tokenizer = loadTokenizer("models/bamba-tiny");
    const ids = tokenizer.encode("It was the best of times, it was the worst of times.\nCafé naïveté — “quoted” 日本語 end.");
    for (const stop of ["times", "times,", "was the w", "\n", "é n", "té —", "”", "日", "本語", " end", "e", "absent"]) {
      const [criterion] = build({ eosTokenId: [], stopStrings: stop }, tokenizer);
      const first = ids.findIndex((_, i) => criterion!.stops(row(ids.slice(0, i + 1))));
      const expected = ids.findIndex((_, i) => tokenizer.decode(ids.slice(0, i + 1)).includes(stop));
      expect([stop, first]).toEqual([stop, expected]);
    }
  });
});

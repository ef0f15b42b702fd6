import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { loadTokenizer } from "../../runtime/text/auto-tokenizer.ts";
import { decodeContinuation, startStreamer, TextIteratorStreamer, TextStreamer } from "../../runtime/text/streamer.ts";
import { Tokenizer } from "../../runtime/text/tokenizer.ts";

const tiny = loadTokenizer("models/bamba-tiny");

/** The 256 characters that stand for bytes in a byte-level vocabulary, in the order of the bytes. */
function byteCharacters(): string[] {
  const plain = (b: number): boolean => (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
  let next = 256;
  return Array.from({ length: 256 }, (_, b) => String.fromCodePoint(plain(b) ? b : next++));
}

/** The hardest tokenizer to stream: a token for each byte (id = byte), and two special tokens (256, 257). */
const bytes = new Tokenizer(
  {
    added_tokens: [256, 257].map((id) => ({ id, content: `<${id}>`, special: true, normalized: false })),
    normalizer: null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, use_regex: false },
    post_processor: null,
    decoder: { type: "ByteLevel" },
    model: { type: "BPE", vocab: Object.fromEntries(byteCharacters().map((c, b) => [c, b])), merges: [] },
  },
  {},
  "bytes",
);

const stream = (tokenizer: Tokenizer, ids: readonly number[], skipSpecialTokens: boolean): { pieces: string[]; rest: string } => {
  const streamer = new TextStreamer(tokenizer, { skipSpecialTokens });
  return { pieces: ids.map((id) => streamer.push(id)), rest: streamer.end() };
};

/** Of words and punctuation, whose decoder puts a space before each: what clean-up is for. */
const words = wordTokenizer("WordPiece", { type: "WordPiece", prefix: "##", cleanup: false });
/** The same with a decoder that takes the first space away, so that a token says something else where a text begins. */
const spaced = wordTokenizer("Unigram", { type: "Metaspace", replacement: "\u2581", add_prefix_space: true, prepend_scheme: "always" });

function wordTokenizer(type: "WordPiece" | "Unigram", decoder: object): Tokenizer {
  const pieces = [
    "<s>",
    "</s>",
    "a",
    "b",
    ".",
    ",",
    "!",
    "?",
    "'",
    "'s",
    "'m",
    "'ve",
    "'re",
    "n't",
    "n",
    "##s",
    "##'",
    "##ve",
    "##n't",
    "' ",
  ];
  const named = type === "WordPiece" ? pieces : pieces.map((piece) => piece.replace(/^##/, "").replace(/^([a-z.'])/, "\u2581$1"));
  const vocab = type === "WordPiece" ? Object.fromEntries(named.map((piece, id) => [piece, id])) : named.map((piece) => [piece, 0]);
  return new Tokenizer(
    {
      added_tokens: [0, 1].map((id) => ({ id, content: pieces[id]!, special: true, normalized: false })),
      normalizer: null,
      pre_tokenizer: null,
      post_processor: null,
      decoder,
      model: type === "WordPiece" ? { type, vocab, unk_token: "a", continuing_subword_prefix: "##" } : { type, vocab, unk_id: 2 },
    },
    { clean_up_tokenization_spaces: true, bos_token: "<s>", eos_token: "</s>" },
    type,
  );
}

const lonely = /[\ud800-\udbff]$/;

describe.each([
  ["bamba-tiny", tiny, fc.nat(4095)],
  // Weighted towards the bytes of which characters are made, whole and broken.
  [
    "single bytes",
    bytes,
    fc.oneof(fc.nat(257), fc.integer({ min: 0x80, max: 0xf4 }), fc.constantFrom(0xe2, 0x82, 0xac, 0xf0, 0x9f, 0x99, 0x82, 256)),
  ],
])("%s", (_, tokenizer, id) => {
  test("the pieces of any ids join to the decoding of all of them", () => {
    fc.assert(
      fc.property(fc.array(id, { maxLength: 60 }), fc.boolean(), (ids, skip) => {
        const { pieces, rest } = stream(tokenizer, ids, skip);
        expect(pieces.join("") + rest).toBe(tokenizer.decode(ids, { skipSpecialTokens: skip }));
        for (const piece of pieces) expect(piece).not.toMatch(lonely);
      }),
      { numRuns: 1500 },
    );
  });

  test("pieces of a text hold whole characters only, and nothing is left at the end", () => {
    fc.assert(
      // A text may hold U+FFFD itself, which looks like a broken tail until something follows it.
      fc.property(
        fc.string({ unit: "grapheme", maxLength: 40 }).map((text) => text.replaceAll("\ufffd", "?")),
        (text) => {
          const { pieces, rest } = stream(tokenizer, tokenizer.encode(text), true);
          expect(pieces.join("")).toBe(text);
          expect(rest).toBe("");
          let before = "";
          for (const piece of pieces) {
            expect(piece).not.toContain("\ufffd");
            expect(piece).not.toMatch(lonely);
            before += piece;
            expect(text.startsWith(before)).toBe(true);
          }
        },
      ),
      { numRuns: 500 },
    );
  });
});

describe.each([
  ["bamba-tiny", tiny, fc.nat(4095)],
  ["single bytes", bytes, fc.oneof(fc.nat(257), fc.constantFrom(0xe2, 0x82, 0xac, 0xf0, 0x9f, 0x99, 0x82, 256))],
  ["word pieces", words, fc.nat(19)],
  ["spaced pieces", spaced, fc.nat(19)],
])("%s behind a prompt", (_, tokenizer, id) => {
  const options = fc.record({ skipSpecialTokens: fc.boolean(), cleanUpTokenizationSpaces: fc.boolean() });
  test("the pieces are what the ids add to the prompt's text, with clean-up and without", () => {
    fc.assert(
      fc.property(fc.array(id, { maxLength: 12 }), fc.array(id, { maxLength: 30 }), options, (prompt, ids, decode) => {
        const pieces: string[] = [];
        let ends = 0;
        const onFinalizedText = (text: string, end: boolean): void => {
          pieces.push(text);
          ends += end ? 1 : 0;
        };
        const streamer = new TextStreamer(tokenizer, { ...decode, skipPrompt: true, onFinalizedText });
        streamer.put([prompt]);
        for (const token of ids) streamer.put([[token]]);
        streamer.end();
        expect(pieces.join("")).toBe(decodeContinuation(tokenizer, prompt, ids, decode));
        expect(ends).toBe(1);
        const before = tokenizer.decode(prompt, decode);
        if (!tokenizer.cleansUp(decode) && !before.endsWith("\ufffd"))
          expect(pieces.join("")).toBe(tokenizer.decode([...prompt, ...ids], decode).slice(before.length));
      }),
      { numRuns: 800 },
    );
  });

  test("without a prompt they are the decoding of all of them", () => {
    fc.assert(
      fc.property(fc.array(id, { maxLength: 40 }), options, (ids, decode) => {
        const streamer = new TextStreamer(tokenizer, decode);
        const text = ids.map((token) => streamer.push(token)).join("") + streamer.end();
        expect(text).toBe(tokenizer.decode(ids, decode));
      }),
      { numRuns: 800 },
    );
  });
});

test("clean-up holds back only what it may still change", () => {
  const streamer = new TextStreamer(words);
  // a ##ve ##ve . b ##ve ##ve
  expect([2, 17, 17, 4, 3, 17, 17].map((id) => streamer.push(id))).toEqual(["a", "ve", "ve", "", "", ". bve", "ve"]);
  expect(streamer.end()).toBe("");
  expect([2, 8, 3].map((id) => streamer.push(id)).join("")).toBe("a");
  expect(streamer.end()).toBe("'b");
});

test("a streamer of several rows, and of beams, is refused in Transformers' words", () => {
  const streamer = new TextStreamer(bytes);
  const prompts = { ids: Int32Array.of(65, 66), rows: 2 };
  expect(() => startStreamer(streamer, prompts)).toThrow("TextStreamer only supports batch size 1");
  expect(() => startStreamer(streamer, { ...prompts, rows: 1 }, 2)).toThrow("`streamer` cannot be used with beam search (yet!)");
});

test("an iterator gives up when no text comes in time", async () => {
  const streamer = new TextIteratorStreamer(bytes, { timeout: 20 });
  streamer.put([[65]]);
  const pieces = streamer[Symbol.asyncIterator]();
  expect((await pieces.next()).value).toBe("A");
  await expect(pieces.next()).rejects.toThrow("no text within 20 ms");
});

test("a character comes with its last byte, text as soon as it is certain", () => {
  const streamer = new TextStreamer(bytes);
  const pieces = [...new TextEncoder().encode("a🙂é")].map((b) => streamer.push(b));
  expect(pieces).toEqual(["a", "", "", "", "🙂", "", "é"]);
  expect(streamer.push(0xf0)).toBe("");
  expect(streamer.push(256)).toBe("");
  expect(streamer.push(0x41)).toBe("\ufffdA");
  expect(streamer.push(0xe2)).toBe("");
  expect(streamer.end()).toBe("\ufffd");
  expect(streamer.push(0x41)).toBe("A");
});

test("an endless run of broken bytes neither stops the text nor takes quadratic time", () => {
  const streamer = new TextStreamer(bytes);
  const started = performance.now();
  let text = "";
  for (let i = 0; i < 5000; i += 1) text += streamer.push(i % 3 === 0 ? 0xe2 : 0x82);
  expect(text.length).toBeGreaterThan(1600);
  for (let i = 0; i < 5000; i += 1) text += streamer.push(0xbf);
  expect(text.length).toBeGreaterThan(6600);
  expect(performance.now() - started).toBeLessThan(15_000);
});

test("many skipped tokens cost no more than they must", () => {
  const streamer = new TextStreamer(bytes);
  expect(streamer.push(0x41)).toBe("A");
  for (let i = 0; i < 20_000; i += 1) expect(streamer.push(256)).toBe("");
  expect(streamer.push(0x42)).toBe("B");
});

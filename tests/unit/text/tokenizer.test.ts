import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { UserError } from "../../../runtime/errors.ts";
import { AutoTokenizer, loadTokenizer } from "../../../runtime/text/auto-tokenizer.ts";
import { Tokenizer } from "../../../runtime/text/tokenizer.ts";

const folder = mkdtempSync(join(tmpdir(), "culm-tokenizer-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Reference {
  readonly text: string;
  readonly ids: readonly number[];
  readonly ids_plain: readonly number[];
  readonly decoded: string;
  readonly decoded_skip: string;
}
const references = JSON.parse(readFileSync("tests/reference/bamba-tiny/reference_tokens.json", "utf8")) as readonly Reference[];
const tiny = loadTokenizer("models/bamba-tiny");

describe("bamba-tiny", () => {
  test.each(references)("as Transformers: $text", ({ text, ids, ids_plain, decoded, decoded_skip }) => {
    expect(tiny.encode(text)).toEqual(ids);
    expect(tiny.encode(text, { addSpecialTokens: false })).toEqual(ids_plain);
    expect(tiny.decode(ids)).toBe(decoded);
    expect(tiny.decode(Int32Array.from(ids), { skipSpecialTokens: true })).toBe(decoded_skip);
  });

  test("special tokens, sizes and single tokens", async () => {
    const tokenizer = await AutoTokenizer.fromPretrained("models/bamba-tiny");
    expect(tokenizer).toMatchObject({
      vocabSize: 4096,
      bos: { text: "<|begin_of_text|>", id: 1 },
      eos: { text: "<|end_of_text|>", id: 2 },
      pad: { text: "<|pad|>", id: 0 },
      unk: null,
      paddingSide: "left",
      maxLength: 2048,
    });
    expect([0, 1, 2, 3].map((id) => tokenizer.isSpecial(id))).toEqual([true, true, true, false]);
    expect(tokenizer.tokenToId("<|pad|>")).toBe(0);
    expect(tokenizer.tokenToId("no such token")).toBeUndefined();
    expect([tokenizer.idToToken(3), tokenizer.idToToken(4096)]).toEqual(["!", undefined]);
  });

  test("the padded batch of the reference generations", () => {
    const { generations } = JSON.parse(readFileSync("tests/reference/bamba-tiny/reference_generations.json", "utf8")) as {
      generations: { prompts?: string[]; input_ids?: number[][]; attention_mask?: number[][] }[];
    };
    const { prompts, input_ids, attention_mask } = generations.find((entry) => entry.prompts !== undefined)!;
    const { batch, length, ids, attentionMask } = tiny.encodeBatch(prompts!);
    expect([batch, length]).toEqual([2, 12]);
    expect([...ids]).toEqual(input_ids!.flat());
    expect([...attentionMask]).toEqual(attention_mask!.flat());
  });

  test("padding: right, to a length, with another id, and none where none is needed", () => {
    const rows = [[5], [6, 7, 8]];
    expect([...tiny.pack(rows, { side: "right" }).ids]).toEqual([5, 0, 0, 6, 7, 8]);
    expect([...tiny.pack(rows, { minLength: 4, padId: 9 }).ids]).toEqual([9, 9, 9, 5, 9, 6, 7, 8]);
    expect([...tiny.pack(rows, { minLength: 4 }).attentionMask]).toEqual([0, 0, 0, 1, 0, 1, 1, 1]);
    expect(tiny.pack([])).toMatchObject({ batch: 0, length: 0 });
    expect([...tiny.encodeBatch(["a", "a"], { addSpecialTokens: false }).attentionMask]).toEqual([1, 1]);
  });

  test("a call gives ids and mask of a text or of several, cut and padded as asked", () => {
    const [hello, world] = [tiny.encode("Hello"), tiny.encode("Hello, world of dew")];
    expect(tiny.call("Hello")).toEqual({ inputIds: hello, attentionMask: hello.map(() => 1) });
    expect(tiny.call("Hello", { returnAttentionMask: false, addSpecialTokens: false })).toEqual({ inputIds: hello.slice(1) });
    const pads = new Array<number>(world.length - hello.length).fill(0);
    const ones = hello.map(() => 1);
    expect(tiny.call(["Hello", "Hello, world of dew"], { padding: true })).toEqual({
      inputIds: [[...pads, ...hello], world],
      attentionMask: [[...pads, ...ones], world.map(() => 1)],
    });
    expect(tiny.call(["Hello", "Hello, world of dew"], { padding: "longest", paddingSide: "right" }).inputIds[0]).toEqual([
      ...hello,
      ...pads,
    ]);
    expect(tiny.call("Hello", { padding: "maxLength", maxLength: 6 }).attentionMask).toEqual([
      ...new Array<number>(6 - hello.length).fill(0),
      ...ones,
    ]);
    expect(tiny.call([])).toEqual({ inputIds: [], attentionMask: [] });
  });

  test("a text is cut on either side, and its special tokens stay", () => {
    const whole = tiny.encode("It was the best of times");
    const cut = { truncation: true, maxLength: 4 } as const;
    expect(tiny.call("It was the best of times", cut).inputIds).toEqual(whole.slice(0, 4));
    expect(tiny.call("It was the best of times", { ...cut, truncationSide: "left" }).inputIds).toEqual([1, ...whole.slice(-3)]);
    expect(tiny.call("It was the best of times", { ...cut, maxLength: 1 }).inputIds).toEqual([1]);
    expect(tiny.call("It was", { truncation: true }).inputIds).toEqual(tiny.encode("It was"));
    expect(tiny.call("It was the best of times", { maxLength: 4 }).inputIds).toEqual(whole);
    for (const maxLength of [0, -1, 1.5, NaN])
      expect(() => tiny.call("a", { truncation: true, maxLength })).toThrow("maxLength: expected a whole number");
  });

  test("sides may be set for all calls; rows are decoded together", () => {
    const own = loadTokenizer("models/bamba-tiny");
    own.paddingSide = "right";
    own.truncationSide = "left";
    const { inputIds } = own.call(["a b c", "a"], { padding: true, truncation: true, maxLength: 3 });
    expect(own.batchDecode(inputIds)).toEqual(["<|begin_of_text|> b c", "<|begin_of_text|>a<|pad|>"]);
    expect(own.batchDecode(inputIds, { skipSpecialTokens: true })).toEqual([" b c", "a"]);
    expect([...own.encodeBatch(["a b", "a"]).ids.slice(-1)]).toEqual([0]);
  });

  test("ids that have no token stand for nothing; ids that are none are refused", () => {
    expect(tiny.decode([42, 99_999, 486, 81])).toBe("Hello");
    expect(tiny.decode([])).toBe("");
    for (const id of [-1, 0.5, NaN]) expect(() => tiny.decode([3, id])).toThrow(/decode: id 1 is .*, expected an integer from 0/);
  });
});

describe("other tokenizers", () => {
  const json = JSON.parse(readFileSync("models/bamba-tiny/tokenizer.json", "utf8")) as Record<string, unknown>;
  let count = 0;
  function folderWith(files: Readonly<Record<string, unknown>>): string {
    const inner = join(folder, String((count += 1)));
    mkdirSync(inner);
    for (const [name, content] of Object.entries(files)) {
      writeFileSync(join(inner, name), typeof content === "string" ? content : JSON.stringify(content));
    }
    return inner;
  }

  test("special tokens as objects, from the older map, or not at all", () => {
    const objects = {
      bos_token: { content: "<|begin_of_text|>", lstrip: false },
      eos_token: { __type: "AddedToken", content: "<|end_of_text|>" },
    };
    const tokenizer = loadTokenizer(folderWith({ "tokenizer.json": json, "tokenizer_config.json": { ...objects, pad_token: null } }));
    expect(tokenizer).toMatchObject({ bos: { id: 1 }, eos: { id: 2 }, pad: null, maxLength: Infinity });
    expect(loadTokenizer(folderWith({ "tokenizer.json": json, "special_tokens_map.json": objects })).eos?.id).toBe(2);
    const bare = loadTokenizer(folderWith({ "tokenizer.json": json }));
    expect([bare.bos, bare.eos, bare.pad]).toEqual([null, null, null]);
    expect(() => bare.encodeBatch(["a", "a b c"])).toThrow("tokenizer without pad_token cannot do batching");
    expect(bare.encodeBatch(["a", "a"]).length).toBe(2);
    const absent = loadTokenizer(folderWith({ "tokenizer.json": json, "tokenizer_config.json": { pad_token: "[PAD]" } }));
    expect(absent.pad).toEqual({ text: "[PAD]", id: null });
  });

  test("a pad token may be set, and is special from then on", () => {
    const bare = new Tokenizer(json, { eos_token: "<|end_of_text|>" }, "t");
    expect(() => bare.call(["a", "a b"], { padding: true })).toThrow("Asking to pad but the tokenizer does not have a padding token");
    bare.pad = bare.eos;
    expect(bare.call(["a", "a b"], { padding: true }).inputIds[0]![0]).toBe(2);
    bare.pad = "!";
    expect([bare.pad, bare.isSpecial(3)]).toEqual([{ text: "!", id: 3 }, true]);
    expect(() => (bare.pad = "no such token")).toThrow('pad token "no such token" is not in the vocabulary');
    bare.pad = null;
    expect(() => bare.call(["a"], { padding: "maxLength" })).toThrow("padding: the tokenizer names no length of its own");
    const left = new Tokenizer(json, { truncation_side: "left", chat_template: "{{ 1 }}" }, "t");
    expect([left.truncationSide, left.chatTemplate]).toEqual(["left", "{{ 1 }}"]);
  });

  test("clean_up_tokenization_spaces does nothing to a byte-pair tokenizer (spec e.7)", () => {
    const tokenizer = new Tokenizer(json, { clean_up_tokenization_spaces: true }, "t");
    expect(tokenizer.decode(tokenizer.encode("a . b , c 's", { addSpecialTokens: false }))).toBe("a . b , c 's");
  });

  test.each<[string, Readonly<Record<string, unknown>>, RegExp]>([
    ["no tokenizer.json", { "config.json": {} }, /tokenizer\.json: there is no such file/],
    ["not JSON", { "tokenizer.json": "{" }, /tokenizer\.json: is not valid JSON/],
    ["not an object", { "tokenizer.json": "[]" }, /tokenizer\.json: expected a JSON object, got \[\]/],
    ["no model", { "tokenizer.json": { added_tokens: [] } }, /tokenizer\.json: model: expected an object/],
    ["no vocabulary", { "tokenizer.json": { ...json, model: { type: "BPE" } } }, /tokenizer\.json: model\.vocab: expected the vocabulary/],
    [
      "no merges",
      { "tokenizer.json": { ...json, model: { type: "BPE", vocab: { a: 0 } } } },
      /tokenizer\.json: the tokenizer cannot be built/,
    ],
    [
      "an unknown model",
      { "tokenizer.json": { ...json, model: { type: "X", vocab: {} } } },
      /tokenizer\.json: model\.type: "X" is not supported/,
    ],
    [
      "a huge id",
      { "tokenizer.json": { ...json, model: { type: "BPE", vocab: { a: 1e15 }, merges: [] } } },
      /model\.vocab: "a": expected an id/,
    ],
    ["added tokens missing", { "tokenizer.json": { ...json, added_tokens: undefined } }, /added_tokens: expected a list/],
    [
      "an added token without id",
      { "tokenizer.json": { ...json, added_tokens: [{ content: "x" }] } },
      /added_tokens\[0\]: expected \{ id, content/,
    ],
    [
      "a wrong tokenizer_config.json",
      { "tokenizer.json": json, "tokenizer_config.json": "nonsense" },
      /tokenizer_config\.json: is not valid JSON/,
    ],
  ])("%s is an error that names the file", async (_, files, message) => {
    const inner = folderWith(files);
    await expect(AutoTokenizer.fromPretrained(inner)).rejects.toThrow(message);
    expect(() => loadTokenizer(inner)).toThrow(UserError);
    expect(() => loadTokenizer(inner)).toThrow(inner);
  });

  test("a folder in place of the file", () => {
    const inner = folderWith({});
    cpSync("models/bamba-tiny/tokenizer_config.json", join(inner, "tokenizer_config.json"));
    mkdirSync(join(inner, "tokenizer.json"));
    expect(() => loadTokenizer(inner)).toThrow("tokenizer.json: cannot be read");
  });
});

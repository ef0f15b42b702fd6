import { Tokenizer } from "@huggingface/tokenizers";

/** What is used of the library's tokenizer. Its own declarations import without file extensions, which Node's resolution does not follow. */
export interface LibraryTokenizer {
  encode(text: string, options: { readonly add_special_tokens: boolean }): { readonly ids: readonly (number | undefined)[] };
  decode(
    ids: readonly number[],
    options: { readonly skip_special_tokens: boolean; readonly clean_up_tokenization_spaces: boolean },
  ): string;
  token_to_id(token: string): number | undefined;
  id_to_token(id: number): string | undefined;
  get_added_tokens_decoder(): ReadonlyMap<number, { readonly special: boolean }>;
  get_vocab(): ReadonlyMap<string, number>;
}

/** Builds the library's tokenizer from tokenizer.json and tokenizer_config.json. It throws errors of its own on files that it does not like. */
export function createLibraryTokenizer(tokenizer: object, config: object): LibraryTokenizer {
  const create = Tokenizer as unknown as new (tokenizer: object, config: object) => LibraryTokenizer;
  return new create(tokenizer, config);
}

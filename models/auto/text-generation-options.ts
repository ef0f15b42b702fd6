import type { Chat, ChatMessage, ChatOptions } from "../../runtime/text/chat-template.ts";
import type { EncodingOptions } from "../../runtime/text/encoding.ts";
import type { DecodeOptions, Tokenizer } from "../../runtime/text/tokenizer.ts";
import type { GenerateOptions } from "../../runtime/text/request.ts";
import type { BambaForCausalLM } from "./model.ts";

/** What the pipeline uses of a model. */
export type PipelineModel = Pick<BambaForCausalLM, "config" | "plan" | "generationConfig" | "generate" | "stream" | "close">;

/** Options of a call, and defaults of a pipeline: its own, and everything that `generate` takes. */
export interface TextGenerationOptions
  extends
    Omit<GenerateOptions, "onStep" | "tokenizer">,
    Omit<ChatOptions, "addGenerationPrompt">,
    Pick<DecodeOptions, "cleanUpTokenizationSpaces"> {
  /** Whether the text begins with the prompt (a chat: its messages); true unless given. */
  readonly returnFullText?: boolean;
  /** Whether the result is ids (generatedTokenIds), the prompt's included, in place of text. */
  readonly returnTensors?: boolean;
  /** Whether the result is text, as it is anyway; there for what it may not be combined with. */
  readonly returnText?: boolean;
  /** Prompts of a list that are run at once, padded on the left; 1 unless given. */
  readonly batchSize?: number;
  /** Goes before every prompt that is a text, and does not appear in the result. */
  readonly prefix?: string;
  /** A text any of whose tokens ends the generation, in place of the model's end tokens. */
  readonly stopSequence?: string;
  /** "hole": a prompt that leaves no room for the new tokens loses its beginning. */
  readonly handleLongGeneration?: "hole" | null;
  /** Whether prompts are cut to maxLength tokens. */
  readonly truncation?: boolean;
  /** Whether the tokenizer adds its special tokens to a text; what it does by itself unless given. A chat's template writes them. */
  readonly addSpecialTokens?: boolean;
  /** Whether special tokens are left out of the text; true unless given. */
  readonly skipSpecialTokens?: boolean;
  /** Further arguments of the tokenizer; they win. `maxLength` means generation outside and truncation here. */
  readonly tokenizerEncodeOptions?: EncodingOptions;
}

/** `generated_text` of a prompt that is a text. */
export interface GeneratedText {
  readonly generatedText: string;
}
/** `generated_text` of a chat: its messages and the answer. */
export interface GeneratedChat {
  readonly generatedText: readonly ChatMessage[];
}
/** `generated_token_ids`: prompt and new tokens. */
export interface GeneratedTokens {
  readonly generatedTokenIds: readonly number[];
}

export type PipelineInput = string | Chat;

/** What a prompt gives, by the options. */
export type Generated<Input extends PipelineInput, Options> = Options extends { readonly returnTensors: true }
  ? GeneratedTokens
  : Input extends string
    ? GeneratedText
    : Options extends { readonly returnFullText: false }
      ? GeneratedText
      : GeneratedChat;

type ReturnKey = "returnFullText" | "returnTensors" | "returnText";

/** A call that says what it returns is not bound by the pipeline's own word on that. */
type Merged<Defaults, Options> = Omit<Defaults, keyof Options | (keyof Options & ReturnKey extends never ? never : ReturnKey)> & Options;

/**
 * `pipeline("text-generation")`: a function of prompts. A text or a chat gives a list with an object for each returned sequence; a list of them
 * gives a list of such lists; any other iterable gives them one after the other as they are asked for.
 * What Transformers calls generated_text and generated_token_ids is generatedText and generatedTokenIds.
 */
export interface TextGenerationPipeline<Defaults extends TextGenerationOptions = TextGenerationOptions> {
  <const O extends TextGenerationOptions = object>(prompt: string, options?: O): Promise<readonly Generated<string, Merged<Defaults, O>>[]>;
  <const O extends TextGenerationOptions = object>(chat: Chat, options?: O): Promise<readonly Generated<Chat, Merged<Defaults, O>>[]>;
  <const O extends TextGenerationOptions = object>(
    prompts: readonly string[],
    options?: O,
  ): Promise<readonly (readonly Generated<string, Merged<Defaults, O>>[])[]>;
  <const O extends TextGenerationOptions = object>(
    chats: readonly Chat[],
    options?: O,
  ): Promise<readonly (readonly Generated<Chat, Merged<Defaults, O>>[])[]>;
  <I extends PipelineInput, const O extends TextGenerationOptions = object>(
    inputs: Iterable<I> | AsyncIterable<I>,
    options?: O,
  ): AsyncGenerator<readonly Generated<I, Merged<Defaults, O>>[], void, void>;
  readonly task: "text-generation";
  readonly model: PipelineModel;
  readonly tokenizer: Tokenizer;
  /** The new text of one prompt piece by piece, as soon as it is certain. Leaving the loop ends the work. */
  stream(prompt: PipelineInput, options?: TextGenerationOptions): AsyncGenerator<string, void, void>;
  /** Closes the model. */
  close(): Promise<void>;
}

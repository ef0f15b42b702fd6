import type { Requirements } from "../../compiler/artifact.ts";
import type { AdapterFacts } from "../drivers/webgpu/adapter.ts";
import type { Chat } from "../text/chat-template.ts";
import type { FinishReason } from "../text/generate.ts";
import type { GenerationOptions } from "../text/generation-options.ts";

/**
 * What a page and the worker that runs its model say to each other: plain data, as structured clones. Every request has a number, which all that is said
 * in answer to it carries; the last answer is `ready`, `done`, `profile`, `closed` or `error`. A worker holds one model and does one thing at a time: what is
 * asked of it meanwhile is refused, but for `stop`.
 */
export type Request =
  /** Loads a model. @see openWebModel for what `url` names. */
  | { readonly type: "open"; readonly id: number; readonly url: string }
  /** Loads the model that was open once more, on a new device: after `lost`. */
  | { readonly type: "reopen"; readonly id: number }
  | { readonly type: "generate"; readonly id: number; readonly prompt: string | Chat; readonly settings: Settings }
  /** Times the kernels of a decode step. It ends the text that the model was writing. */
  | { readonly type: "profile"; readonly id: number }
  /** Ends what runs, the opening of a model too. A text ends as `done`, anything else as an `error` of kind "aborted". */
  | { readonly type: "stop" }
  | { readonly type: "close"; readonly id: number };

export type Reply =
  | { readonly type: "progress"; readonly id: number; readonly progress: Progress }
  | { readonly type: "ready"; readonly id: number; readonly model: ModelFacts }
  | { readonly type: "token"; readonly id: number; readonly token: Token }
  | { readonly type: "done"; readonly id: number; readonly result: Result }
  | { readonly type: "profile"; readonly id: number; readonly profile: Profile }
  | { readonly type: "closed"; readonly id: number }
  | { readonly type: "error"; readonly id: number; readonly failure: Failure }
  /** Something to know that stops nothing: no room in the browser's cache, a server without ranges. */
  | { readonly type: "note"; readonly message: string }
  /** The device is gone, and the model with it. What ran ends as an `error` of kind "lost"; `reopen` starts anew. */
  | { readonly type: "lost"; readonly message: string };

/** Settings of a generation that a page has controls for; unless given, those of the model's generation_config.json. The same names and ranges as everywhere. */
export type Settings = Pick<
  GenerationOptions,
  | "maxNewTokens"
  | "minNewTokens"
  | "doSample"
  | "temperature"
  | "topK"
  | "topP"
  | "minP"
  | "typicalP"
  | "repetitionPenalty"
  | "noRepeatNgramSize"
  | "stopStrings"
  | "seed"
>;

/** How far the opening of a model is. The stages come in this order; `weights` is most of it. */
export interface Progress {
  readonly stage: "adapter" | "kernels" | "weights";
  /** Of all the files, those from the cache included. `total` is 0 before it is known. */
  readonly bytes: number;
  readonly total: number;
  /** Of `bytes`, those that the browser's cache had. */
  readonly cached: number;
  /** From the network, of late. */
  readonly bytesPerSecond: number;
}

export interface ModelFacts {
  readonly name: string;
  readonly adapter: AdapterFacts;
  /** The variant that was chosen, by its caps ("large-sg32"), and what of the adapter it needs. */
  readonly caps: string;
  readonly requires: Requirements;
  /** Version of the compiler that made it. */
  readonly compiler: string;
  readonly parameters: number;
  readonly dtype: string;
  readonly vocabSize: number;
  /** Positions that prompt and answer have together. */
  readonly maxLength: number;
  /** Of memory on the device: weights, and everything else. */
  readonly weightBytes: number;
  readonly stateBytes: number;
  /** Kernels that run for a token. */
  readonly launches: number;
  /** Bytes of all files that were needed, and of those that came from the network now. */
  readonly bytes: number;
  readonly downloaded: number;
  /** Milliseconds from the request to here. */
  readonly time: number;
  /** Whether the tokenizer has a chat template, so that a prompt may be a list of messages. */
  readonly chat: boolean;
  /** Whether `profile` can time kernels on this device. */
  readonly timing: boolean;
  /** What the model's generation_config.json sets of the settings. */
  readonly settings: Settings;
}

/** A token of the answer. */
export interface Token {
  /** Text that has become certain by it; often empty, where a character is not complete. Joined, and with the result's `rest`, it is the answer. */
  readonly text: string;
  /** Tokens so far. */
  readonly count: number;
  /** Milliseconds from the request to the first token. */
  readonly first: number;
  /** Of the tokens after the first one; 0 with one. */
  readonly tokensPerSecond: number;
}

export interface Result {
  readonly reason: FinishReason;
  /** What is left of the text when all of it is certain. */
  readonly rest: string;
  readonly promptTokens: number;
  readonly newTokens: number;
  /** The ids of the answer. */
  readonly ids: readonly number[];
  /** Milliseconds. */
  readonly first: number;
  readonly total: number;
  readonly tokensPerSecond: number;
  /** What repeats the answer. */
  readonly seed: number;
  readonly warnings: readonly string[];
}

/** A decode step, kernel by kernel. */
export interface Profile {
  /** Positions that the caches held. */
  readonly past: number;
  /** In the order in which they run. */
  readonly steps: readonly {
    /** Model path of the operation: "layers.3.mamba.in_proj". */
    readonly label: string;
    readonly kernel: string;
    /** Kind of kernel: "gemv", "ssd-scan", "attention-decode", ... */
    readonly template: string;
    /** Mean of the runs. */
    readonly milliseconds: number;
    readonly bytes: number;
    readonly flops: number;
  }[];
}

/** An error as it reaches a page. */
export interface Failure {
  /** `user`: can be mended, `message` and `hint` say how; `lost`: the device is gone; `aborted`: as asked; `internal`: a mistake of ours. */
  readonly kind: "user" | "lost" | "aborted" | "internal";
  readonly message: string;
  readonly hint?: string;
}

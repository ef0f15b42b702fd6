import type { Chat } from "../text/chat-template.ts";
import type { Failure, ModelFacts, Profile, Progress, Reply, Request, Result, Settings, Token } from "./protocol.ts";

/** A Worker, or a port to one. */
export interface WorkerLike {
  postMessage(request: Request): void;
  addEventListener(type: "message", listener: (event: { readonly data: Reply }) => void): void;
  /** Where there is one: told when the worker itself cannot be loaded or fails outside of a request. */
  addEventListener(type: "error", listener: (event: { readonly message?: string }) => void): void;
}

/** What a worker could not do. */
export class ModelError extends Error {
  override readonly name = "ModelError";
  readonly kind: Failure["kind"];
  /** What to do about it. */
  readonly hint: string | undefined;

  constructor({ kind, message, hint }: Failure) {
    super(message);
    this.kind = kind;
    this.hint = hint;
  }
}

export interface OpenHandlers {
  readonly onProgress?: (progress: Progress) => void;
  /** Ends what was asked for. */
  readonly signal?: AbortSignal;
}

export interface GenerateHandlers {
  readonly onToken?: (token: Token) => void;
  /** Ends the text, which is then done with reason "aborted". */
  readonly signal?: AbortSignal;
}

/** A page's side of the worker that runs its model. One call at a time; all reject with a ModelError. */
export interface ModelClient {
  /** Loads a model in place of the one that is open. @param url of its folder, as seen from the page */
  open(url: string, handlers?: OpenHandlers): Promise<ModelFacts>;
  /** Loads it once more on a new device: after `lost`. */
  reopen(handlers?: OpenHandlers): Promise<ModelFacts>;
  generate(prompt: string | Chat, settings?: Settings, handlers?: GenerateHandlers): Promise<Result>;
  /** Ends the call that is under way. */
  stop(): void;
  /** Times the kernels of a decode step. It ends the text so far: the next one begins anew in any case. */
  profile(): Promise<Profile>;
  close(): Promise<void>;
}

export interface ClientOptions {
  /** Told of what stops nothing. */
  readonly onNote?: (message: string) => void;
  /** The device is gone; `reopen` starts anew. */
  readonly onLost?: (message: string) => void;
}

interface Call {
  readonly resolve: (reply: Reply) => void;
  readonly reject: (error: ModelError) => void;
  readonly onProgress: ((progress: Progress) => void) | undefined;
  readonly onToken: ((token: Token) => void) | undefined;
}

/** @param worker one that runs worker.ts and nothing else uses */
export function connectModel(worker: WorkerLike, { onNote, onLost }: ClientOptions = {}): ModelClient {
  const calls = new Map<number, Call>();
  let last = 0;

  worker.addEventListener("message", ({ data }) => {
    switch (data.type) {
      case "note":
        onNote?.(data.message);
        return;
      case "lost":
        onLost?.(data.message);
        return;
      case "progress":
        calls.get(data.id)?.onProgress?.(data.progress);
        return;
      case "token":
        calls.get(data.id)?.onToken?.(data.token);
        return;
      case "error":
        calls.get(data.id)?.reject(new ModelError(data.failure));
        break;
      case "ready":
      case "done":
      case "profile":
      case "closed":
        calls.get(data.id)?.resolve(data);
        break;
    }
    calls.delete(data.id);
  });
  worker.addEventListener("error", ({ message = "" }) => {
    const failure: Failure = {
      kind: "internal",
      message: `the worker failed${message === "" ? ": it could not be loaded" : `: ${message}`}`,
    };
    for (const call of calls.values()) call.reject(new ModelError(failure));
    calls.clear();
  });

  async function ask<T extends Reply["type"]>(
    type: T,
    request: (id: number) => Request,
    { onProgress, onToken, signal }: OpenHandlers & GenerateHandlers = {},
  ): Promise<Extract<Reply, { readonly type: T }>> {
    if (signal?.aborted === true) throw new ModelError({ kind: "aborted", message: "stopped" });
    last += 1;
    const id = last;
    signal?.addEventListener("abort", stop);
    try {
      const reply = await new Promise<Reply>((resolve, reject) => {
        calls.set(id, { resolve, reject, onProgress, onToken });
        worker.postMessage(request(id));
      });
      if (reply.type !== type) throw new ModelError({ kind: "internal", message: `the worker answered ${type} with ${reply.type}` });
      return reply as Extract<Reply, { readonly type: T }>;
    } finally {
      signal?.removeEventListener("abort", stop);
    }
  }

  const stop = (): void => worker.postMessage({ type: "stop" });

  return {
    open: async (url, handlers) => (await ask("ready", (id) => ({ type: "open", id, url: fromPage(url) }), handlers)).model,
    reopen: async (handlers) => (await ask("ready", (id) => ({ type: "reopen", id }), handlers)).model,
    generate: async (prompt, settings = {}, handlers) =>
      (await ask("done", (id) => ({ type: "generate", id, prompt, settings }), handlers)).result,
    stop,
    profile: async () => (await ask("profile", (id) => ({ type: "profile", id }))).profile,
    close: async () => void (await ask("closed", (id) => ({ type: "close", id }))),
  };
}

/** A worker would take a relative address for one beside its own script. */
function fromPage(url: string): string {
  const { location } = globalThis as { readonly location?: { readonly href: string } };
  return location === undefined ? url : new URL(url, location.href).href;
}

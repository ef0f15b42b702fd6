import { DeviceLostError, isUserError, UserError } from "../errors.ts";
import type { StepTime } from "../executor.ts";
import { prepareGeneration, runGeneration } from "../text/request.ts";
import { TextStreamer } from "../text/streamer.ts";
import type { Chat } from "../text/chat-template.ts";
import { decodeProgram, openWebModel } from "./open.ts";
import type { OpenWebOptions, PageDriver, WebModel } from "./open.ts";
import type { Failure, Profile, Reply, Request, Result, Settings } from "./protocol.ts";

/** A worker's own scope, or a port to it. */
export interface Port {
  postMessage(reply: Reply): void;
  addEventListener(type: "message", listener: (event: { readonly data: Request }) => void): void;
}

export interface ServeOptions extends Pick<OpenWebOptions, "platform" | "patience"> {
  /** Asked for anew at each opening: after a loss the old one may be of no use. Throws a UserError where there is no WebGPU. */
  readonly driver: () => PageDriver;
}

/** Answers the requests that come through a port: see protocol.ts. One model at a time, one thing at a time. */
export function serveModel(port: Port, options: ServeOptions): void {
  const worker = new ModelWorker((reply) => port.postMessage(reply), options);
  port.addEventListener("message", ({ data }) => worker.take(data));
}

class ModelWorker {
  private readonly reply: (reply: Reply) => void;
  private readonly options: ServeOptions;
  private model: WebModel | null = null;
  /** Address of the model that was opened last. */
  private url: string | null = null;
  /** Why the device of the open model is gone. */
  private lost: string | null = null;
  private running: AbortController | null = null;

  constructor(reply: (reply: Reply) => void, options: ServeOptions) {
    this.reply = reply;
    this.options = options;
  }

  take(request: Request): void {
    if (request.type === "stop") this.running?.abort(new AbortedError());
    else void this.answer(request);
  }

  private async answer(request: Exclude<Request, { readonly type: "stop" }>): Promise<void> {
    const { id } = request;
    if (this.running !== null) {
      this.fail(id, new UserError("the model is at work on something else", { hint: "wait for it, or stop it" }));
      return;
    }
    const abort = new AbortController();
    this.running = abort;
    try {
      const reply = await this.run(request, abort.signal);
      this.running = null;
      this.reply(reply);
    } catch (error) {
      this.running = null;
      this.fail(id, error);
    }
  }

  private async run(request: Exclude<Request, { readonly type: "stop" }>, signal: AbortSignal): Promise<Reply> {
    const { id } = request;
    switch (request.type) {
      case "open":
        return this.open(id, request.url, signal);
      case "reopen":
        if (this.url === null) throw noModel();
        return this.open(id, this.url, signal);
      case "generate":
        return { type: "done", id, result: await this.generate(id, request.prompt, request.settings, signal) };
      case "profile":
        return { type: "profile", id, profile: await profileStep(this.opened(), signal) };
      case "close":
        await this.close();
        return { type: "closed", id };
    }
  }

  private async open(id: number, url: string, signal: AbortSignal): Promise<Reply> {
    await this.close();
    this.url = url;
    const model = await openWebModel(url, this.options.driver(), {
      ...this.options,
      signal,
      onProgress: (progress) => this.reply({ type: "progress", id, progress }),
      onNote: (message) => this.reply({ type: "note", message }),
    });
    this.model = model;
    void model.lost.then((message) => {
      if (this.model !== model) return;
      this.lost = message;
      this.reply({ type: "lost", message });
    });
    return { type: "ready", id, model: model.facts };
  }

  private async close(): Promise<void> {
    const { model } = this;
    this.model = null;
    this.lost = null;
    await model?.close();
  }

  private opened(): WebModel {
    if (this.model === null) throw noModel();
    if (this.lost !== null) throw new DeviceLostError(`the graphics device is gone (${this.lost})`, { hint: "open the model again" });
    return this.model;
  }

  private async generate(id: number, prompt: string | Chat, settings: Settings, signal: AbortSignal): Promise<Result> {
    const { tokenizer, generation, text, session } = this.opened();
    const ids =
      typeof prompt === "string" ? tokenizer.encode(prompt) : tokenizer.applyChatTemplate(prompt, { addGenerationPrompt: true }).inputIds;
    const streamer = new TextStreamer(tokenizer);
    const started = performance.now();
    let count = 0;
    let first = 0;
    const options = {
      ...settings,
      tokenizer,
      signal,
      onStep: ({ tokens }: { readonly tokens: Int32Array }): void => {
        const now = performance.now() - started;
        count += 1;
        if (count === 1) first = now;
        const tokensPerSecond = count > 1 ? ((count - 1) / (now - first)) * 1000 : 0;
        this.reply({ type: "token", id, token: { text: streamer.push(tokens[0]!), count, first, tokensPerSecond } });
      },
    };
    const request = prepareGeneration(ids, options, generation, text);
    const { prompts } = request;
    streamer.begin([...prompts.ids]);
    const { newTokens, finish, timing, warnings, seed } = await runGeneration(() => Promise.resolve(session), request, options);
    return {
      reason: finish[0]!,
      rest: streamer.end(),
      promptTokens: prompts.ids.length,
      newTokens: newTokens[0]!.length,
      ids: [...newTokens[0]!],
      first: timing.first,
      total: timing.total,
      tokensPerSecond: timing.tokensPerSecond,
      seed: typeof seed === "number" ? seed : seed[0]!,
      warnings,
    };
  }

  private fail(id: number, error: unknown): void {
    this.reply({ type: "error", id, failure: failureOf(error) });
  }
}

const noModel = (): UserError => new UserError("no model is open", { hint: "open one first" });

/** The reason of a stop. */
class AbortedError extends Error {
  override readonly name = "AbortError";

  constructor() {
    super("stopped");
  }
}

/** An error as plain data: its class would not survive the way to the page. */
function failureOf(error: unknown): Failure {
  const message = error instanceof Error ? error.message : String(error);
  if (error instanceof AbortedError) return { kind: "aborted", message };
  const kind = error instanceof DeviceLostError ? "lost" : isUserError(error) ? "user" : "internal";
  const hint = isUserError(error) ? error.hint : undefined;
  return { kind, message, ...(hint === undefined ? {} : { hint }) };
}

/** Runs that are timed: browsers give times in steps of 65 microseconds, longer than many kernels take, unless they are told otherwise. */
const timedRuns = 10;

/** Times a decode step where the session stands. Its states are of no use afterwards, and the next text begins by resetting them. */
async function profileStep({ session, manifest }: WebModel, signal: AbortSignal): Promise<Profile> {
  const { executor, capacity } = session;
  if (executor.profile === undefined) throw new UserError("this device cannot time kernels");
  const past = Math.min(session.past, capacity - 1);
  const steps = manifest.programs.find(({ name }) => name === decodeProgram)?.steps ?? [];
  const milliseconds = new Float64Array(steps.length);
  let times: readonly StepTime[] = [];
  for (let run = 0; run <= timedRuns; run += 1) {
    signal.throwIfAborted();
    times = await executor.profile(decodeProgram, { batch: 1, seq: 1, past, with_logits: 1 });
    // The first run is cold.
    if (run > 0) times.forEach((step, i) => (milliseconds[i]! += step.milliseconds / timedRuns));
  }
  return {
    past,
    steps: times.map(({ label, kernel, bytes, flops }, i) => ({
      label,
      kernel,
      template: manifest.kernels[steps[i]!.kernel]!.template,
      milliseconds: milliseconds[i]!,
      bytes,
      flops,
    })),
  };
}

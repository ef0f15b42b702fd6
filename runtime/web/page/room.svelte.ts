import { ModelError } from "../client.ts";
import type { ClientOptions, ModelClient } from "../client.ts";
import type { Failure, Progress, Settings, Token } from "../protocol.ts";
import { after, canWrite, INITIAL } from "./state.ts";
import type { Happening, State, Task } from "./state.ts";

/** A model and what happens to it, as the components see it. Nothing is asked of the model while something else runs. */
export interface Room {
  readonly state: State;
  /** Also after the device was lost. */
  open(): Promise<void>;
  write(prompt: string, settings: Settings): Promise<void>;
  measure(): Promise<void>;
  stop(): void;
}

/**
 * @param url of the model's folder, as seen from the page
 * @param connect makes the client: when the model is opened first, so that the page is there before the worker, and again when the worker broke
 */
export function createRoom(url: string, connect: (options: ClientOptions) => ModelClient): Room {
  let state = $state.raw(INITIAL);
  let client: ModelClient | undefined;

  const tell = (event: Happening): void => {
    state = after(state, event);
  };
  const connected = (): ModelClient =>
    (client ??= connect({ onNote: (message) => tell({ type: "note", message }), onLost: (message) => tell({ type: "lost", message }) }));

  async function run(task: Task, work: (client: ModelClient) => Promise<Happening>): Promise<void> {
    try {
      tell(await work(connected()));
    } catch (error) {
      const failure = failureOf(error);
      if (failure.kind === "internal" && task === "open") client = undefined;
      tell({ type: "failed", task, failure });
    }
  }

  const onProgress = (progress: Progress): void => tell({ type: "progress", progress });
  const onToken = (token: Token): void => tell({ type: "token", token });

  return {
    get state() {
      return state;
    },
    async open() {
      if (state.task !== null) return;
      tell({ type: "began", task: "open" });
      await run("open", async (model) => ({ type: "ready", model: await model.open(url, { onProgress }) }));
    },
    async write(prompt, settings) {
      if (!canWrite(state)) return;
      tell({ type: "began", task: "write", prompt });
      await run("write", async (model) => ({ type: "done", result: await model.generate(prompt, settings, { onToken }) }));
    },
    async measure() {
      if (!canWrite(state)) return;
      tell({ type: "began", task: "measure" });
      await run("measure", async (model) => ({ type: "measured", profile: await model.profile() }));
    },
    stop() {
      if (state.task === null || state.stopping) return;
      tell({ type: "stopping" });
      client?.stop();
    },
  };
}

/** Whatever was thrown: what is not a failure of the worker is a mistake of the page. */
function failureOf(error: unknown): Failure {
  if (error instanceof ModelError) {
    const { kind, message, hint } = error;
    return { kind, message, ...(hint === undefined ? {} : { hint }) };
  }
  return { kind: "internal", message: error instanceof Error ? error.message : String(error) };
}

import type { Failure, ModelFacts, Profile, Progress, Result, Token } from "../protocol.ts";
import { formatBytes } from "../../format.ts";
import { breakDown } from "./kernels.ts";
import type { Breakdown } from "./kernels.ts";

/** What can be asked of the model, and be asked again when it failed. */
export type Task = "open" | "write" | "measure";

/** A text: what it goes on from, and what the model wrote. */
export interface Written {
  readonly prompt: string;
  readonly text: string;
  /** The last token, for the figures while it is being written. */
  readonly token: Token | null;
  /** null while it is being written, and when that failed. */
  readonly result: Result | null;
}

/** All that the page shows of the model. */
export interface State {
  /** What runs; null when nothing does. */
  readonly task: Task | null;
  /** Asked to end, and not yet ended. */
  readonly stopping: boolean;
  readonly progress: Progress | null;
  /** null until it is loaded, and when its device was lost. */
  readonly model: ModelFacts | null;
  readonly written: Written | null;
  readonly breakdown: Breakdown | null;
  readonly failed: { readonly task: Task; readonly failure: Failure } | null;
  readonly notes: readonly string[];
}

export type Happening =
  | { readonly type: "began"; readonly task: "open" | "measure" }
  | { readonly type: "began"; readonly task: "write"; readonly prompt: string }
  | { readonly type: "stopping" }
  | { readonly type: "progress"; readonly progress: Progress }
  | { readonly type: "ready"; readonly model: ModelFacts }
  | { readonly type: "token"; readonly token: Token }
  | { readonly type: "done"; readonly result: Result }
  | { readonly type: "measured"; readonly profile: Profile }
  | { readonly type: "failed"; readonly task: Task; readonly failure: Failure }
  | { readonly type: "lost"; readonly message: string }
  | { readonly type: "note"; readonly message: string };

export const INITIAL: State = {
  task: null,
  stopping: false,
  progress: null,
  model: null,
  written: null,
  breakdown: null,
  failed: null,
  notes: [],
};

const idle = { task: null, stopping: false, progress: null } as const;

/** The state after something happened. */
export function after(state: State, event: Happening): State {
  switch (event.type) {
    case "began": {
      const begun = { ...state, task: event.task, stopping: false, failed: null };
      if (event.task !== "write") return begun;
      return { ...begun, written: { prompt: event.prompt, text: "", token: null, result: null } };
    }
    case "stopping":
      return { ...state, stopping: true };
    case "progress":
      return { ...state, progress: event.progress };
    case "ready":
      return { ...state, ...idle, model: event.model };
    case "token":
      return state.written === null
        ? state
        : { ...state, written: { ...state.written, text: state.written.text + event.token.text, token: event.token } };
    case "done": {
      if (state.written === null) return state;
      const { result } = event;
      return { ...state, ...idle, written: { ...state.written, text: state.written.text + result.rest, result } };
    }
    case "measured":
      return { ...state, ...idle, breakdown: breakDown(event.profile.steps) };
    case "failed":
      return event.failure.kind === "lost"
        ? lost(state, event.failure)
        : { ...state, ...idle, failed: { task: event.task, failure: event.failure } };
    case "lost":
      // What ran tells of it too, by failing; it may do so first.
      return lost(state, { kind: "lost", message: event.message });
    case "note":
      return { ...state, notes: state.notes.includes(event.message) ? state.notes : [...state.notes, event.message] };
  }
}

function lost(state: State, failure: Failure): State {
  const known = state.failed?.failure.kind === "lost" ? state.failed.failure : failure;
  return { ...state, ...idle, model: null, failed: { task: "open", failure: known } };
}

/** Whether the model can be asked to write. */
export function canWrite({ task, model }: State): boolean {
  return task === null && model !== null;
}

const stages: Readonly<Record<Progress["stage"], string>> = {
  adapter: "Asking for the graphics processor",
  kernels: "Loading the kernels",
  weights: "Loading the weights",
};

const endings: Readonly<Record<Result["reason"], string>> = {
  length: "the length was reached",
  eos: "the model ended the text",
  stop: "a stop text was reached",
  aborted: "stopped",
};

/** What is going on, in a few words that change seldom: they are read aloud. */
export function statusOf({ task, stopping, progress, model, written, failed }: State): string {
  if (stopping) return "Stopping";
  switch (task) {
    case "open":
      return progress === null ? "Starting" : stages[progress.stage];
    case "write":
      return written?.token ? "Writing" : "Reading the prompt";
    case "measure":
      return "Measuring a decode step";
    case null:
      break;
  }
  if (failed !== null) return failed.failure.kind === "aborted" ? "Stopped" : "Something went wrong";
  if (model === null) return "No model is loaded";
  const result = written?.result;
  return result ? `Done: ${result.newTokens} tokens, ${endings[result.reason]}` : "Ready";
}

/** How far the opening is, in numbers: "9.2 MB of 14.1 MB, 3.1 MB/s". */
export function progressText({ bytes, total, cached, bytesPerSecond }: Progress): string {
  if (total === 0) return "";
  const amount = `${formatBytes(bytes)} of ${formatBytes(total)}`;
  const source = cached > 0 && cached === bytes ? ", from this browser's cache" : "";
  return amount + source + (bytesPerSecond > 0 && bytes < total ? `, ${formatBytes(bytesPerSecond)}/s` : "");
}

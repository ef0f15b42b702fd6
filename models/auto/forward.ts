import { UserError } from "../../runtime/errors.ts";
import { createSession } from "../../runtime/session.ts";
import type { Session } from "../../runtime/session.ts";
import type { Executor } from "../../runtime/executor.ts";
import type { Prompts } from "../../runtime/text/token-rows.ts";
import type { BambaConfig } from "../bamba/config.ts";
import { positionAxes } from "./plan.ts";

/** A batch of one forward pass: rows of tokens of one length, or of embeddings. */
export interface ForwardInput extends Prompts {
  /** [rows, length]; unless given, positions count on from what the caches hold. */
  readonly positions?: ArrayLike<number>;
  /** [rows, length, hidden] in place of the ids, which then only say how many there are. */
  readonly embeds?: Float32Array;
  /** [rows, length] token ids, -100 where the loss does not count. Position t predicts label t + 1. */
  readonly labels?: ArrayLike<number>;
}

export interface ForwardResult {
  readonly rows: number;
  readonly length: number;
  readonly vocabSize: number;
  /** [rows, length, vocab] */
  readonly logits: Float32Array;
  /** Each [rows, length, hidden]: the embeddings, the output of each layer but the last, and the output of the final norm. */
  readonly hiddenStates: readonly Float32Array[];
  readonly loss: number | null;
}

/** A session that gives every position's logits. States carry over from call to call; `session.reset()` forgets them. */
export interface ForwardSession {
  readonly session: Session;
  forward(input: ForwardInput): Promise<ForwardResult>;
}

export function createForwardSession(executor: Executor, config: BambaConfig): ForwardSession {
  const session = createSession(executor, { positionAxes: positionAxes(config) });
  const { outputs, inputs } = executor.programs.find(({ name }) => name === "prefill")!;
  const steps = executor.programs.some(({ name }) => name.startsWith("decode."));
  const hiddenCount = outputs.filter(({ name }) => name.startsWith("hidden.")).length;
  const takes = (name: string): boolean => inputs.some((input) => input.name === name);
  const has = (name: string): boolean => outputs.some((output) => output.name === name);

  const forward = async (input: ForwardInput): Promise<ForwardResult> => {
    const { ids, rows, mask, embeds, labels } = input;
    const length = ids.length / rows;
    const { vocabSize } = session;
    const { hiddenSize } = config;
    if (embeds !== undefined && embeds.length !== ids.length * hiddenSize)
      throw new UserError(`inputs_embeds has ${embeds.length} elements, expected [${rows}, ${length}, ${hiddenSize}]`);
    const collect = (name: string, width: number) => {
      const view = executor.output(name) as Float32Array;
      const all = new Float32Array(rows * length * width);
      const take = async (first: number, count: number): Promise<void> => {
        await executor.fetch(name, rows * count * width);
        for (let row = 0; row < rows; row += 1)
          all.set(view.subarray(row * count * width, (row + 1) * count * width), (row * length + first) * width);
      };
      return { all, take };
    };
    const logits = collect("logits", vocabSize);
    const hidden = Array.from({ length: hiddenCount }, (_, i) => collect(`hidden.${i}`, hiddenSize));
    const extra: Record<string, Float32Array | Int32Array> = {};
    if (embeds !== undefined) extra["inputs_embeds"] = embeds;
    if (takes("labels")) extra["labels"] = shifted(labels ?? [], rows, length);
    const positions = input.positions ?? Int32Array.from(ids, (_, i) => session.past + (i % length));
    const onChunk = async (first: number, count: number): Promise<void> => {
      for (const part of [logits, ...hidden]) await part.take(first, count);
    };
    // One token on top of a text is a step, as in Transformers, where a step and a prefill differ in a detail (the limit of the time steps).
    if (length === 1 && session.past > 0 && steps && mask === undefined) {
      await session.decode(ids, positions);
      await onChunk(0, 1);
    } else await session.prefill(ids, { rows, extra, positions, onChunk, ...(mask === undefined ? {} : { mask }) });
    let loss: number | null = null;
    if (has("loss")) {
      await executor.fetch("loss", 1);
      loss = executor.output("loss")![0]!;
    }
    return { rows, length, vocabSize, logits: logits.all, hiddenStates: hidden.map(({ all }) => all), loss };
  };
  return { session, forward };
}

/** Position t gets the label of t + 1; the last one has none. */
function shifted(labels: ArrayLike<number>, rows: number, length: number): Int32Array {
  if (labels.length !== rows * length) throw new UserError(`labels has ${labels.length} elements, expected [${rows}, ${length}]`);
  return Int32Array.from({ length: rows * length }, (_, i) => ((i + 1) % length === 0 ? -100 : labels[i + 1]!));
}

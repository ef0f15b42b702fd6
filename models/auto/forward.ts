import type { Executor } from "../../runtime/executor.ts";
import { UserError } from "../../runtime/errors.ts";
import type { Session } from "../../runtime/session.ts";
import type { Prompts } from "../../runtime/text/token-rows.ts";
import type { BambaConfig } from "../bamba/config.ts";
import type { ModelPlan } from "./plan.ts";
import { createModelSession } from "./sessions.ts";

/** A batch of one forward pass: rows of tokens of one length, or of embeddings. */
export interface ForwardInput extends Prompts {
  /** [rows, length]; unless given, positions count on from each row's last token. */
  readonly positions?: ArrayLike<number>;
  /** [rows, length, hidden] in place of the ids, which then only say how many there are. */
  readonly embeds?: Float32Array;
  /** [rows, length] a label for each token: packed sequences (see PrefillOptions). */
  readonly sequences?: ArrayLike<number>;
  /** [rows, length] token ids, -100 where the loss does not count. Position t predicts label t + 1. */
  readonly labels?: ArrayLike<number>;
  /** In place of `labels`: position t predicts label t. */
  readonly shiftLabels?: ArrayLike<number>;
  /** What the sum of the losses is divided by; unless given, the number of labels that count. */
  readonly numItemsInBatch?: number;
  /** The logits of how many of the last positions, 0 for all; or of which positions, below zero from the end. 0 unless given. */
  readonly logitsToKeep?: number | readonly number[];
}

export interface ForwardResult {
  readonly rows: number;
  readonly length: number;
  readonly vocabSize: number;
  /** Positions of a row whose logits are given: `length` unless `logitsToKeep` says otherwise, and 0 without a head. */
  readonly kept: number;
  /** [rows, kept, vocab] */
  readonly logits: Float32Array;
  /** [rows, length, hidden], the output of the final norm; null for a model with its head (the last of the hidden states is the same). */
  readonly lastHiddenState: Float32Array | null;
  /** Each [rows, length, hidden]: the embeddings, the output of each layer but the last, and the output of the final norm. */
  readonly hiddenStates: readonly Float32Array[];
  /** Of each attention layer the weights [rows, query heads, length, keys], where keys is what the caches held before the call and `length`. */
  readonly attentions: readonly Float32Array[];
  readonly loss: number | null;
}

/** A session that gives the logits of any positions. States carry over from call to call; `session.reset()` forgets them. */
export interface ForwardSession {
  readonly session: Session;
  forward(input: ForwardInput): Promise<ForwardResult>;
}

/** An output gathered over the chunks of a call. */
interface Gathered {
  readonly all: Float32Array;
  readonly take: (first: number, count: number, kept: number) => Promise<void>;
}

export function createForwardSession(executor: Executor, config: BambaConfig, rotary: ModelPlan["rotary"]): ForwardSession {
  const session = createModelSession(executor, config, rotary);
  const { outputs, inputs } = executor.programs.find(({ name }) => name === "prefill")!;
  const steps = executor.programs.some(({ name }) => name.startsWith("decode."));
  const has = (name: string): boolean => outputs.some((output) => output.name === name);
  const count = (prefix: string): number => outputs.filter(({ name }) => name.startsWith(prefix)).length;
  const [hiddenCount, attentionCount] = [count("hidden."), count("attentions.")];
  const takesLabels = inputs.some(({ name }) => name === "labels");
  const { hiddenSize, numAttentionHeads: heads } = config;

  const forward = async (input: ForwardInput): Promise<ForwardResult> => {
    const { ids, rows, mask, embeds, labels, shiftLabels, numItemsInBatch, logitsToKeep = 0 } = input;
    const length = ids.length / rows;
    const { vocabSize, past } = session;
    if (embeds !== undefined && embeds.length !== ids.length * hiddenSize)
      throw new UserError(`inputsEmbeds has ${embeds.length} elements, expected [${rows}, ${length}, ${hiddenSize}]`);
    const wanted = wantedPositions(logitsToKeep, length);
    const extra: Record<string, Float32Array | Int32Array> = {};
    if (embeds !== undefined) extra["inputs_embeds"] = embeds;
    if (takesLabels) {
      if (wanted.length !== length || wanted.some((position, i) => position !== i))
        throw new UserError("the loss needs the logits of all positions", { hint: "give labels without logitsToKeep" });
      extra["labels"] = checkedLabels(shiftLabels ?? shifted(labels ?? [], rows, length), rows, length, vocabSize);
    }
    if (numItemsInBatch !== undefined && !(Number.isFinite(numItemsInBatch) && numItemsInBatch > 0))
      throw new UserError(`numItemsInBatch: expected a number above zero, got ${numItemsInBatch}`);

    /** `width` numbers a position. */
    const perPosition = (name: string, width: number): Gathered => {
      const view = executor.output(name) as Float32Array;
      const all = new Float32Array(rows * length * width);
      const take = async (first: number, n: number): Promise<void> => {
        await executor.fetch(name, rows * n * width);
        for (let row = 0; row < rows; row += 1)
          all.set(view.subarray(row * n * width, (row + 1) * n * width), (row * length + first) * width);
      };
      return { all, take };
    };
    const keptLogits = (): Gathered => {
      const view = executor.output("logits") as Float32Array;
      const all = new Float32Array(rows * wanted.length * vocabSize);
      const take = async (first: number, n: number, kept: number): Promise<void> => {
        const begin = first + n - kept;
        if (!wanted.some((position) => position >= begin && position < first + n)) return;
        await executor.fetch("logits", rows * kept * vocabSize);
        for (let row = 0; row < rows; row += 1)
          for (const [i, position] of wanted.entries()) {
            if (position < begin || position >= first + n) continue;
            const from = (row * kept + position - begin) * vocabSize;
            all.set(view.subarray(from, from + vocabSize), (row * wanted.length + i) * vocabSize);
          }
      };
      return { all, take };
    };
    const keys = past + length;
    /** The program gives weights for every key that there is room for. Keys that a chunk cannot see have none. */
    const attentionWeights = (name: string): Gathered => {
      const view = executor.output(name) as Float32Array;
      const all = new Float32Array(rows * heads * length * keys);
      const take = async (first: number, n: number): Promise<void> => {
        await executor.fetch(name, rows * heads * n * session.capacity);
        for (let head = 0; head < rows * heads; head += 1)
          for (let i = 0; i < n; i += 1) {
            const from = (head * n + i) * session.capacity;
            all.set(view.subarray(from, from + past + first + n), (head * length + first + i) * keys);
          }
      };
      return { all, take };
    };

    const logits = has("logits") ? keptLogits() : null;
    const last = has("last_hidden_state") ? perPosition("last_hidden_state", hiddenSize) : null;
    const hidden = Array.from({ length: hiddenCount }, (_, i) => perPosition(`hidden.${i}`, hiddenSize));
    const attentions = Array.from({ length: attentionCount }, (_, i) => attentionWeights(`attentions.${i}`));
    const parts = [...(logits ? [logits] : []), ...(last ? [last] : []), ...hidden, ...attentions];

    const { positions, sequences } = input;
    const logitsFrom = wanted.length === 0 ? length : wanted.reduce((least, position) => Math.min(least, position));
    const onChunk = async (first: number, n: number, kept: number): Promise<void> => {
      for (const part of parts) await part.take(first, n, kept);
    };
    // One token on top of a text is a step, as in Transformers, where in strict mode a step and a prefill differ in details.
    if (length === 1 && past > 0 && steps && mask === undefined && sequences === undefined) {
      await session.decode(ids, positions === undefined ? {} : { positions });
      await onChunk(0, 1, 1);
    } else {
      const given = {
        ...(positions === undefined ? {} : { positions }),
        ...(mask === undefined ? {} : { mask }),
        ...(sequences === undefined ? {} : { sequences }),
      };
      await session.prefill(ids, { rows, extra, onChunk, logitsFrom, ...given });
    }

    return {
      rows,
      length,
      vocabSize,
      kept: logits === null ? 0 : wanted.length,
      logits: logits?.all ?? new Float32Array(0),
      lastHiddenState: last?.all ?? null,
      hiddenStates: hidden.map(({ all }) => all),
      attentions: attentions.map(({ all }) => all),
      loss: takesLabels ? await lossOf(executor, has("z_loss"), extra["labels"] as Int32Array, numItemsInBatch) : null,
    };
  };
  return { session, forward };
}

/** What the program gives is a mean over the labels that count; the z-loss is over all positions whatever the first is divided by (spec bamba c.9). */
async function lossOf(executor: Executor, z: boolean, labels: Int32Array, numItemsInBatch: number | undefined): Promise<number> {
  await executor.fetch("loss", 1);
  const mean = executor.output("loss")![0]!;
  const counted = labels.reduce((n, label) => (label === ignored ? n : n + 1), 0);
  // no label that counts: the mean of none is NaN, their sum is 0
  const loss = numItemsInBatch === undefined ? mean : counted === 0 ? 0 : (mean * counted) / numItemsInBatch;
  if (!z) return Math.fround(loss);
  await executor.fetch("z_loss", 1);
  return Math.fround(loss + executor.output("z_loss")![0]!);
}

/** Label of a position that the loss leaves out, as in PyTorch. */
const ignored = -100;

/** Position t gets the label of t + 1; the last one has none. */
function shifted(labels: ArrayLike<number>, rows: number, length: number): Int32Array {
  if (labels.length !== rows * length) throw new UserError(`labels has ${labels.length} elements, expected [${rows}, ${length}]`);
  return Int32Array.from({ length: rows * length }, (_, i) => ((i + 1) % length === 0 ? ignored : labels[i + 1]!));
}

function checkedLabels(labels: ArrayLike<number>, rows: number, length: number, vocabSize: number): Int32Array {
  if (labels.length !== rows * length) throw new UserError(`labels has ${labels.length} elements, expected [${rows}, ${length}]`);
  return Int32Array.from(labels, (label) => {
    if (label === ignored || (Number.isInteger(label) && label >= 0 && label < vocabSize)) return label;
    throw new UserError(`label ${label} is neither a token (0 to ${vocabSize - 1}) nor ${ignored}, which does not count`);
  });
}

/** The positions of a row whose logits are asked for, in the order asked for. */
function wantedPositions(keep: number | readonly number[], length: number): readonly number[] {
  if (typeof keep === "number") {
    if (!Number.isInteger(keep) || keep < 0)
      throw new UserError(`logitsToKeep: expected a whole number from 0 or a list of positions, got ${keep}`);
    const count = keep === 0 ? length : Math.min(keep, length);
    return Array.from({ length: count }, (_, i) => length - count + i);
  }
  return keep.map((position) => {
    if (!Number.isInteger(position) || position < -length || position >= length)
      throw new UserError(`logitsToKeep: position ${position} is outside the ${length} of the input`);
    return position < 0 ? length + position : position;
  });
}

import { definedOnly } from "../../runtime/defined.ts";
import { UserError } from "../../runtime/errors.ts";
import type { Session } from "../../runtime/session.ts";
import type { BambaConfig } from "../bamba/config.ts";
import { BambaCache } from "./cache.ts";
import type { Values } from "./cache.ts";
import type { Engine } from "./engine.ts";
import { createForwardSession } from "./forward.ts";
import type { ForwardSession } from "./forward.ts";
import type { ModelPlan } from "./plan.ts";
import { stack } from "../../runtime/text/stack.ts";

type Rows = readonly ArrayLike<number>[];

/** What a forward pass of the bare model takes: Transformers' arguments in camel case. Lists of rows, each row of one length L. */
export interface ModelInputs {
  /** [B, L] token ids; or `inputsEmbeds`. */
  readonly inputIds?: Rows;
  /** [B, L, hidden] in place of ids. */
  readonly inputsEmbeds?: Values;
  /** [B, L] or, with a cache, [B, past + L]: 1 for a token, 0 for padding, on either side. All ones unless given. */
  readonly attentionMask?: Rows;
  /**
   * [B, L] or [1, L]. Unless given they count on from what the cache holds. Without a mask, a position that is not the last one plus 1 begins another
   * packed sequence, which sees nothing of those before.
   */
  readonly positionIds?: Rows;
  /** [B, L]: the number of the packed sequence of each token, in place of restarting positions. */
  readonly seqIdx?: Rows;
  /** What an earlier call gave: this one goes on from there. */
  readonly pastKeyValues?: BambaCache | null;
  /** Whether to give a cache; as the configuration says (true in all known ones) unless given. A cache that goes in comes out in any case. */
  readonly useCache?: boolean;
  readonly outputHiddenStates?: boolean;
  /** Memory for the weights is reserved at the full capacity: heads * prefillChunk * maxLength numbers a row and attention layer. */
  readonly outputAttentions?: boolean;
}

/** The same with a head: labels and what logits are wanted. */
export interface CausalLMInputs extends ModelInputs {
  /** [B, L] token ids, -100 does not count. Position t predicts label t + 1. The whole text has to be in one call. */
  readonly labels?: Rows;
  /** In place of `labels`: position t predicts label t. */
  readonly shiftLabels?: Rows;
  /** With labels: what the sum of the losses is divided by; unless given, the number of labels that count. */
  readonly numItemsInBatch?: number;
  /** The logits of how many of the last positions, 0 for all; or of which positions, below zero from the end. 0 unless given. */
  readonly logitsToKeep?: number | readonly number[];
}

interface CommonOutput {
  readonly pastKeyValues: BambaCache | null;
  /** Each [B, L, hidden]: the embeddings, the output of each layer but the last, and the output of the final norm; null unless asked for. */
  readonly hiddenStates: readonly Values[] | null;
  /** Of each attention layer [B, heads, L, past + L]; null unless asked for. */
  readonly attentions: readonly Values[] | null;
}

export interface ModelOutput extends CommonOutput {
  /** [B, L, hidden], the output of the final norm. */
  readonly lastHiddenState: Values;
}

export interface CausalLMOutput extends CommonOutput {
  /** Null without labels. NaN when no label counts, as in PyTorch. */
  readonly loss: number | null;
  /** [B, kept, vocab] in f32. */
  readonly logits: Values;
}

/** What a pass gives: `lastHiddenState` without a head, else logits. */
export interface PassOutput extends CommonOutput {
  readonly loss: number | null;
  readonly logits: Values | null;
  readonly lastHiddenState: Values | null;
}

/** Which program a pass needs. */
export interface ForwardOptions {
  readonly hiddenStates?: boolean;
  readonly attentions?: boolean;
  readonly head?: boolean;
  readonly embeds?: boolean;
  readonly loss?: boolean;
  readonly rows?: number;
  readonly length?: number;
}

/** Runs forward passes of one model, one after the other, and keeps apart the caches that its callers hold. */
export class ForwardRunner {
  private readonly engine: Engine;
  private readonly plan: ModelPlan;
  private readonly config: BambaConfig;
  private readonly sessions = new Map<string, Promise<ForwardSession>>();
  /** Whose states a session holds. Weak: a cache that nobody holds any more need not be saved from the next pass. */
  private readonly residents = new WeakMap<Session, WeakRef<BambaCache>>();
  private turn: Promise<unknown> = Promise.resolve();

  constructor(engine: Engine, plan: ModelPlan, config: BambaConfig) {
    this.engine = engine;
    this.plan = plan;
    this.config = config;
  }

  /** A session for passes of one kind. With `loss` all of a text has to fit into one call. */
  session(options: ForwardOptions = {}): Promise<ForwardSession> {
    const { hiddenStates = false, attentions = false, head = true, embeds = false, loss = false, rows = 1, length = 1 } = options;
    const { capacity, chunk } = this.plan;
    const plan: ModelPlan = {
      ...this.plan,
      use: "forward",
      batch: Math.max(rows, this.plan.batch),
      chunk: loss ? Math.min(capacity, Math.max(chunk, 2 ** Math.ceil(Math.log2(length)))) : chunk,
      hiddenStates,
      attentions,
      head,
      embeds,
      loss,
    };
    const key = JSON.stringify(plan);
    const open = async (): Promise<ForwardSession> =>
      createForwardSession((await this.engine.open(plan)).executor, this.config, plan.rotary);
    const known = this.sessions.get(key) ?? open();
    this.sessions.set(key, known);
    return known;
  }

  /** Sessions that were opened are not used again: their device is gone. */
  forget(): void {
    this.sessions.clear();
  }

  /** @throws UserError for inputs that do not fit each other, the cache or the model. */
  async forward(input: CausalLMInputs, head: boolean): Promise<PassOutput> {
    const before = this.turn;
    let done = (): void => undefined;
    this.turn = new Promise<void>((resolve) => (done = resolve));
    try {
      await before;
      return await this.pass(input, head);
    } finally {
      done();
    }
  }

  private async pass(input: CausalLMInputs, head: boolean): Promise<PassOutput> {
    const { inputsEmbeds: embeds, labels, shiftLabels, numItemsInBatch, logitsToKeep, pastKeyValues } = input;
    const { outputHiddenStates = false, outputAttentions = false } = input;
    if (labels !== undefined && shiftLabels !== undefined) throw new UserError("give labels or shiftLabels, not both");
    const loss = labels !== undefined || shiftLabels !== undefined;
    const { ids, rows, length } = tokensOf(input, this.config.hiddenSize);
    const cache = pastKeyValues ?? new BambaCache(this.config);
    const keep = cache === pastKeyValues || (input.useCache ?? this.config.useCache);
    if (cache.rows > 0 && cache.rows !== rows)
      throw new UserError(`the cache has ${cache.rows} rows, the input has ${rows}`, {
        hint: "go on with as many rows, or without this cache",
      });
    const asked = {
      hiddenStates: outputHiddenStates,
      attentions: outputAttentions,
      head,
      embeds: embeds !== undefined,
      loss,
      rows,
      length,
    };
    const forwards = await this.session(asked);
    const { session } = forwards;
    await cache.enter(session, this.residents.get(session)?.deref() ?? null);
    // States that nobody is given need not be saved from the next pass.
    if (keep) this.residents.set(session, new WeakRef(cache));
    else this.residents.delete(session);
    const past = session.past;
    const mask = input.attentionMask === undefined ? undefined : maskOf(input.attentionMask, rows, length, session);
    const given = input.positionIds === undefined ? undefined : positionsOf(input.positionIds, rows, length);
    const packed = input.seqIdx === undefined ? undefined : sameRows(input.seqIdx, "seqIdx", rows, length);
    const sequences = packed ?? (given !== undefined && mask === undefined ? labelsOf(given, rows, session) : undefined);
    const result = await forwards.forward({
      ids,
      rows,
      ...definedOnly({
        positions: given,
        embeds: embeds?.data,
        mask,
        sequences,
        labels: labels && sameRows(labels, "labels", rows, length),
        shiftLabels: shiftLabels && sameRows(shiftLabels, "shiftLabels", rows, length),
        numItemsInBatch,
        logitsToKeep,
      }),
    });
    const { hiddenSize, numAttentionHeads: heads, vocabSize } = this.config;
    const hidden = (data: Float32Array): Values => ({ shape: [rows, length, hiddenSize], data });
    return {
      loss: result.loss,
      logits: head ? { shape: [rows, result.kept, vocabSize], data: result.logits } : null,
      lastHiddenState: result.lastHiddenState === null ? null : hidden(result.lastHiddenState),
      pastKeyValues: keep ? cache : null,
      hiddenStates: outputHiddenStates ? result.hiddenStates.map(hidden) : null,
      attentions: outputAttentions ? result.attentions.map((data) => ({ shape: [rows, heads, length, past + length], data })) : null,
    };
  }
}

function tokensOf(
  { inputIds, inputsEmbeds }: ModelInputs,
  hiddenSize: number,
): { readonly ids: Int32Array; readonly rows: number; readonly length: number } {
  if ((inputIds === undefined) === (inputsEmbeds === undefined))
    throw new UserError("You must specify exactly one of input_ids or inputs_embeds");
  if (inputIds !== undefined) {
    const ids = stack(inputIds, "inputIds");
    if (ids.length === 0) throw new UserError("inputIds: there is no token");
    return { ids, rows: inputIds.length, length: ids.length / inputIds.length };
  }
  const { shape, data } = inputsEmbeds!;
  const [rows = 0, length = 0, width] = shape;
  if (shape.length !== 3 || width !== hiddenSize || rows * length * width !== data.length || data.length === 0)
    throw new UserError(`inputsEmbeds: [${shape.join(", ")}] with ${data.length} numbers, expected [rows, length, ${hiddenSize}]`);
  return { ids: new Int32Array(rows * length), rows, length };
}

/** [rows, length] of a named input. */
function sameRows(given: Rows, what: string, rows: number, length: number): Int32Array {
  const values = stack(given, what);
  if (given.length !== rows || values.length !== rows * length)
    throw new UserError(`${what}: is [${given.length}, ${values.length / given.length}], the tokens are [${rows}, ${length}]`);
  return values;
}

function positionsOf(given: Rows, rows: number, length: number): Int32Array {
  return sameRows(given.length === 1 ? Array.from({ length: rows }, () => given[0]!) : given, "positionIds", rows, length);
}

/** Labels for tokens whose positions start anew where another packed sequence begins; undefined when all of them continue what the session holds. */
function labelsOf(positions: Int32Array, rows: number, session: Session): Int32Array | undefined {
  const length = positions.length / rows;
  const labels = new Int32Array(positions.length);
  let changed = false;
  for (let row = 0; row < rows; row += 1) {
    const before = session.past === 0 ? null : session.lastOf(row);
    let label = before?.label ?? 0;
    let next = before?.nextPosition ?? positions[row * length]!;
    for (let i = row * length; i < (row + 1) * length; i += 1) {
      if (positions[i] !== next) {
        label += 1;
        changed = true;
      }
      labels[i] = label;
      next = positions[i]! + 1;
    }
  }
  return changed ? labels : undefined;
}

/** The part of the mask that is about this call. What it says of earlier positions was said when they came, and cannot be said otherwise now. */
function maskOf(given: Rows, rows: number, length: number, session: Session): Int32Array {
  const values = stack(given, "attentionMask");
  const width = values.length / given.length;
  if (given.length !== rows || (width !== length && width !== session.past + length))
    throw new UserError(
      `attentionMask: is [${given.length}, ${width}], expected [${rows}, ${length}]${session.past > 0 ? ` or [${rows}, ${session.past + length}]` : ""}`,
    );
  const first = width - length;
  for (let row = 0; row < rows; row += 1)
    for (let at = 0; at < first; at += 1)
      if ((values[row * width + at] === 0) !== session.isPadding(row, at))
        throw new UserError(`attentionMask: row ${row} says of cached position ${at} something else than the call that filled it`, {
          hint: "what a recurrent state has seen cannot be hidden later; begin a new cache",
        });
  const mask = new Int32Array(rows * length);
  for (let row = 0; row < rows; row += 1) mask.set(values.subarray(row * width + first, (row + 1) * width), row * length);
  return mask;
}

import { UserError } from "../errors.ts";
import type { Session } from "../session.ts";
import { TokenRows } from "./token-rows.ts";
import type { Prompts } from "./token-rows.ts";

export interface FeedSettings {
  /** Rows that continue each prompt. */
  readonly perPrompt: number;
  readonly maxNewTokens: number;
  /** What guidance compares with: a text for each prompt; null without guidance. */
  readonly unconditional: Prompts | null;
  /** Most tokens of a prompt in one call; null leaves it to the session. */
  readonly chunk: number | null;
  /** Without states the whole text is fed anew for each token: slow, and the same. */
  readonly useCache: boolean;
}

/** The generation that a session works for: a later one takes the states away from an earlier one that somebody has not finished. */
const owners = new WeakMap<Session, Feed>();

/**
 * The rows of a generation on a session. Each prompt is fed once and its states copied to all the rows that continue it. With guidance as many
 * unconditional rows follow, which get the same new tokens.
 */
export class Feed {
  /** Rows that are being continued, the unconditional ones not counted. */
  readonly rows: number;
  /** All rows of the session, the unconditional ones behind the others. */
  readonly sessionRows: number;
  readonly session: Session;
  private readonly settings: FeedSettings;
  private readonly prompts: Prompts;
  /** Without states: what the session's rows have been fed. */
  private readonly texts: TokenRows | null;
  private readonly tokens: Int32Array;

  /** @throws UserError when the texts or the number of rows do not fit the session. */
  constructor(session: Session, prompts: Prompts, settings: FeedSettings) {
    const { unconditional, perPrompt, maxNewTokens, useCache } = settings;
    this.session = session;
    this.settings = settings;
    this.rows = prompts.rows * perPrompt;
    this.prompts = unconditional === null ? prompts : joined(prompts, unconditional);
    checkRoom(session, this.prompts.ids.length / this.prompts.rows, maxNewTokens);
    this.sessionRows = this.prompts.rows * perPrompt;
    if (this.sessionRows > session.maxRows)
      throw new UserError(`${this.sessionRows} rows at once, but the model was compiled for at most ${session.maxRows}`, {
        hint: "compile it for more: --batch on the command line, batch in fromPretrained",
      });
    this.texts = useCache ? null : new TokenRows(this.prompts, perPrompt, maxNewTokens);
    this.tokens = new Int32Array(this.sessionRows);
  }

  /** Feeds the prompts. The session is reset first. */
  async start(): Promise<void> {
    const { session, settings, prompts } = this;
    owners.set(session, this);
    await session.reset();
    await this.prefill(prompts.ids, prompts.rows, prompts.mask);
    const { perPrompt } = settings;
    if (perPrompt > 1) await session.reorder(Int32Array.from(this.tokens, (_, row) => Math.floor(row / perPrompt)));
  }

  /**
   * Feeds one token to each row.
   * @param parents row i goes on from what row parents[i] was, and gets token i; each from itself unless given
   * @param withLogits false where only the likeliest tokens are wanted; true unless given
   */
  async next(tokens: Int32Array, parents?: Int32Array, withLogits = true): Promise<void> {
    const { session, rows, texts } = this;
    if (owners.get(session) !== this)
      throw new UserError("the session has begun another generation in the meantime", {
        hint: "finish one before the next, or open the model twice",
      });
    for (let row = 0; row < this.tokens.length; row += 1) this.tokens[row] = tokens[row % rows]!;
    const source = parents === undefined ? null : Int32Array.from(this.tokens, (_, row) => row - (row % rows) + parents[row % rows]!);
    if (texts === null) {
      if (source !== null) await session.reorder(source);
      await session.decode(this.tokens, { logits: withLogits });
      return;
    }
    if (source !== null) texts.reorder(source);
    texts.append(this.tokens);
    await session.reset();
    await this.prefillTexts(texts);
  }

  private async prefillTexts(texts: TokenRows): Promise<void> {
    const { rows, length, promptLength } = texts;
    const ids = new Int32Array(rows * length);
    for (let row = 0; row < rows; row += 1) ids.set(texts.row(row), row * length);
    const { mask } = this.prompts;
    const whole =
      mask === undefined
        ? undefined
        : Int32Array.from(ids, (_, at) => {
            const place = at % length;
            return place < promptLength ? mask[texts.promptOf(Math.floor(at / length)) * promptLength + place]! : 1;
          });
    await this.prefill(ids, rows, whole);
  }

  private prefill(ids: Int32Array, rows: number, mask: ArrayLike<number> | undefined): Promise<void> {
    const { chunk } = this.settings;
    return this.session.prefill(ids, { rows, ...(mask === undefined ? {} : { mask }), ...(chunk === null ? {} : { chunk }) });
  }
}

/** Both in one batch, the shorter ones padded on the left, which changes nothing but in a strict model (spec bamba c.10). */
function joined(a: Prompts, b: Prompts): Prompts {
  const length = Math.max(a.ids.length / a.rows, b.ids.length / b.rows);
  const rows = a.rows + b.rows;
  const ids = new Int32Array(rows * length);
  const mask = new Int32Array(rows * length);
  let first = 0;
  for (const prompts of [a, b]) {
    const own = prompts.ids.length / prompts.rows;
    for (let row = 0; row < prompts.rows; row += 1) {
      const at = (first + row) * length + length - own;
      ids.set(prompts.ids.subarray(row * own, (row + 1) * own), at);
      for (let i = 0; i < own; i += 1) mask[at + i] = prompts.mask?.[row * own + i] === 0 ? 0 : 1;
    }
    first += prompts.rows;
  }
  return { ids, rows, mask };
}

function checkRoom(session: Session, length: number, maxNewTokens: number): void {
  if (!Number.isInteger(maxNewTokens) || maxNewTokens < 1)
    throw new UserError(`maxNewTokens: expected a whole number from 1, got ${maxNewTokens}`);
  const { capacity } = session;
  const hint = "compile it for more: --max-length on the command line, maxLength in fromPretrained";
  if (length > capacity)
    throw new UserError(`the prompt has ${length} tokens, but the model was compiled for at most ${capacity} positions`, { hint });
  // The last token is chosen and not fed.
  if (length + maxNewTokens - 1 > capacity)
    throw new UserError(
      `the prompt has ${length} tokens and ${maxNewTokens} more were asked for, but the model was compiled for at most ${capacity} positions`,
      { hint: `${hint}; or ask for fewer` },
    );
}

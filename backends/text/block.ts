import type { Expr } from "../../compiler/ir/expr.ts";

/**
 * Statements being written between braces. What a block inside it needs computed beforehand can still be added to it, since the inner block's text joins
 * when that is finished.
 */
export interface Block {
  readonly parent: Block | null;
  readonly indent: string;
  readonly lines: string[];
  /** Part of one statement (what happens where its guard holds), not a body of statements. */
  readonly partial: boolean;
  /** The loop counter that exists only in here. */
  readonly counter: Expr | null;
  /** Names of expressions that were computed in here, and hold as long as the block does. */
  readonly known: Map<Expr, string>;
  /** Names of expressions that read what the next statement may change. */
  readonly momentary: Map<Expr, string>;
}

export const block = (parent: Block | null, partial = false, counter: Expr | null = null): Block => ({
  parent,
  partial,
  indent: parent === null ? "  " : `${parent.indent}  `,
  lines: [],
  counter,
  known: new Map(),
  momentary: new Map(),
});

export const line = (b: Block, text: string): void => void b.lines.push(b.indent + text);

/** Writes `head {`, what was written in `inner`, and `}`. */
export function close(inner: Block, head: string, tail = "}"): void {
  const outer = inner.parent!;
  line(outer, `${head} {`);
  for (const text of inner.lines) outer.lines.push(text);
  line(outer, tail);
}

/** What happens where a condition holds, as a part of the present statement. */
export function where(b: Block, condition: string, body: (inner: Block) => void): void {
  const inner = block(b, true);
  body(inner);
  close(inner, `if (${condition})`);
}

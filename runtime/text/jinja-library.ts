import { Environment, Interpreter, parse, tokenize } from "@huggingface/jinja";

/** What is used of @huggingface/jinja. Its own declarations import without file extensions, which Node's resolution does not follow. */
export interface TemplateToken {
  readonly type: string;
  readonly value: string;
}

/** A node of a parsed template: a type and parts that depend on it. */
export interface TemplateNode {
  readonly type: string;
  readonly [part: string]: unknown;
}

export interface TemplateValue {
  readonly type: string;
  readonly value: unknown;
  toString(): string;
}

interface TemplateScope {
  set(name: string, value: unknown): unknown;
}

export interface TemplateInterpreter {
  evaluate: (node: TemplateNode | undefined, scope: TemplateScope) => TemplateValue;
  evaluateBlock: (statements: readonly TemplateNode[], scope: TemplateScope) => TemplateValue;
  run(program: TemplateNode): TemplateValue;
}

/** Blocks take their line's indentation and line break with them, as Transformers sets Jinja up. */
export const lexTemplate = (source: string): readonly TemplateToken[] =>
  (tokenize as (source: string, options: object) => readonly TemplateToken[])(source, { lstrip_blocks: true, trim_blocks: true });

export const parseTemplate = parse as unknown as (tokens: readonly TemplateToken[]) => TemplateNode;

/** An interpreter with `variables` in its outermost scope. */
export function createTemplateInterpreter(variables: Readonly<Record<string, unknown>>): TemplateInterpreter {
  const scope = new (Environment as unknown as new () => TemplateScope)();
  for (const [name, value] of Object.entries(variables)) scope.set(name, value);
  return new (Interpreter as unknown as new (scope: TemplateScope) => TemplateInterpreter)(scope);
}

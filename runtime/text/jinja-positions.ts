import type { TemplateNode, TemplateToken } from "./jinja-library.ts";

/** Offsets in a template's source, for messages. The library keeps none, so they are found again from its tokens. */
export interface Positions {
  /** Of each token; undefined where the source could not be followed. */
  readonly tokens: readonly (number | undefined)[];
  /** Of a node's first word or literal. */
  readonly nodes: WeakMap<TemplateNode, number>;
}

/** The library takes these tags out of the source before anything else, wherever they stand. */
const generationTag = /\{%-?\s*(?:end)?generation\s*-?%\}/g;

/**
 * Where each token begins. All that the library leaves out of its tokens is white space, the hyphens that control it, quotes and escapes, so one
 * walk through the source meets every token again.
 */
export function tokenOffsets(source: string, tokens: readonly TemplateToken[]): readonly (number | undefined)[] {
  const text = source.replace(generationTag, (tag) => tag.replace(/\S/g, " "));
  let at = 0;
  const skipBlanks = (): void => {
    while (at < text.length && /\s/.test(text[at]!)) at += 1;
  };
  /** Moves past `word`; false when something else stands there. */
  const pass = (word: string): boolean => {
    if (!text.startsWith(word, at)) return false;
    at += word.length;
    return true;
  };
  const passText = (value: string): boolean => {
    for (const word of value.matchAll(/\S/g)) {
      skipBlanks();
      if (!pass(word[0])) return false;
    }
    return true;
  };
  const passString = (): boolean => {
    const quote = text[at];
    if (quote !== "'" && quote !== '"') return false;
    for (at += 1; at < text.length && text[at] !== quote; at += 1) if (text[at] === "\\") at += 1;
    at += 1;
    return true;
  };
  const passToken = ({ type, value }: TemplateToken): boolean => {
    switch (type) {
      case "Text":
        return passText(value);
      case "Comment":
        at = text.indexOf("#}", at) + 2;
        return at > 1;
      case "StringLiteral":
        return passString();
      case "OpenStatement":
      case "OpenExpression":
        return pass(value) && (pass("-") || true);
      case "CloseStatement":
      case "CloseExpression":
        return pass(value) || pass(`-${value}`);
      default:
        return pass(value);
    }
  };
  const offsets: (number | undefined)[] = [];
  for (const token of tokens) {
    if (token.type !== "Text" || /\S/.test(token.value)) skipBlanks();
    offsets.push(at);
    if (!passToken(token)) {
      offsets.pop();
      break;
    }
  }
  return tokens.map((_, i) => offsets[i]);
}

/** Where each node of a parsed template begins: its words and literals stand in the tree in the order of the tokens. */
export function locate(source: string, tokens: readonly TemplateToken[], program: TemplateNode): Positions {
  const offsets = tokenOffsets(source, tokens);
  const nodes = new WeakMap<TemplateNode, number>();
  let next = 0;
  const leaf = (node: TemplateNode): number | undefined => {
    for (let i = next; i < tokens.length; i += 1) {
      if (!isTokenOf(tokens[i]!, node)) continue;
      next = i + 1;
      return offsets[i];
    }
    return undefined;
  };
  const visit = (part: unknown): number | undefined => {
    if (Array.isArray(part) || part instanceof Map) return first([...part].map(visit));
    if (!isNode(part)) return undefined;
    const offset = leafTypes.has(part.type) ? leaf(part) : first(childrenOf(part).map(visit));
    if (offset !== undefined) nodes.set(part, offset);
    return offset;
  };
  visit(program);
  return { tokens: offsets, nodes };
}

const leafTypes: ReadonlySet<string> = new Set(["Identifier", "StringLiteral", "IntegerLiteral", "FloatLiteral", "Comment"]);

function isTokenOf(token: TemplateToken, node: TemplateNode): boolean {
  const value = node["value"];
  switch (node.type) {
    case "StringLiteral":
      // Neighbouring literals are one, as in Python; the first of them is where it begins.
      return (token.type === "Text" || token.type === "StringLiteral") && typeof value === "string" && value.startsWith(token.value);
    case "IntegerLiteral":
    case "FloatLiteral":
      return token.type === "NumericLiteral" && Number(token.value) === value;
    default:
      return token.type === node.type && token.value === value;
  }
}

/** The parts of a node in the order of the source, which is that of its properties but for two kinds. */
function childrenOf(node: TemplateNode): readonly unknown[] {
  if (node.type === "Ternary") return [node["trueExpr"], node["condition"], node["falseExpr"]];
  if (node.type === "CallStatement") return [node["callerArgs"], node["call"], node["body"]];
  // An operator is a token, and may be a word.
  return Object.entries(node).flatMap(([name, part]) => (name === "operator" ? [] : [part]));
}

function isNode(value: unknown): value is TemplateNode {
  return typeof value === "object" && value !== null && "type" in value;
}

function first(offsets: readonly (number | undefined)[]): number | undefined {
  return offsets.find((offset) => offset !== undefined);
}

/** A place in a text as people count: "line 3: `the line`". Of a long line the part around the place is shown. */
export function showPlace(source: string, offset: number): string {
  const start = source.lastIndexOf("\n", offset - 1) + 1;
  const end = source.indexOf("\n", offset);
  const line = source.slice(start, end < 0 ? source.length : end).trimEnd();
  const number = source.slice(0, start).split("\n").length;
  const from = line.length > shownWidth ? Math.max(0, Math.min(offset - start - shownWidth / 4, line.length - shownWidth)) : 0;
  const part = line.slice(from, from + shownWidth).trim();
  return `line ${number}: \`${from > 0 ? "..." : ""}${part}${from + shownWidth < line.length ? "..." : ""}\``;
}

const shownWidth = 100;

/**
 * The offset of the first tag of which the library's lexer can make nothing; it stops without saying where.
 * @param lex throws for a text that is no sequence of tokens
 */
export function findBadTag(source: string, lex: (tag: string) => void): number | undefined {
  const opening = /\{[{%#]/g;
  for (let match = opening.exec(source); match !== null; match = opening.exec(source)) {
    const end = endOfTag(source, match.index);
    try {
      lex(source.slice(match.index, end ?? source.length));
    } catch {
      return match.index;
    }
    if (end === undefined) return match.index;
    opening.lastIndex = end;
  }
  return undefined;
}

/** Just behind the tag that begins at `start`; undefined when it is never closed. */
function endOfTag(source: string, start: number): number | undefined {
  const kind = source[start + 1]!;
  const close = kind === "{" ? "}}" : `${kind}}`;
  let depth = 0;
  for (let i = start + 2; i < source.length; i += 1) {
    const char = source[i]!;
    if (depth === 0 && source.startsWith(close, i)) return i + 2;
    if (kind === "#") continue;
    if (char === "{") depth += 1;
    if (char === "}") depth -= 1;
    if (char === "'" || char === '"') for (i += 1; i < source.length && source[i] !== char; i += 1) if (source[i] === "\\") i += 1;
  }
  return undefined;
}

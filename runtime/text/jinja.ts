import { UserError } from "../errors.ts";
import { keepLoopText } from "./jinja-loops.ts";
import { findBadTag, locate, showPlace, tokenOffsets } from "./jinja-positions.ts";
import type { Positions } from "./jinja-positions.ts";
import { createTemplateInterpreter, lexTemplate, parseTemplate } from "./jinja-library.ts";
import type { TemplateInterpreter, TemplateNode, TemplateToken } from "./jinja-library.ts";

/**
 * Bounds on a stranger's template. They hold between evaluations of the template's nodes; a single call of a built-in filter (`replace`, `join`,
 * `indent`, `tojson`) on operands within them runs to its end, in time and memory of the product of their sizes, up to the engine's longest string.
 */
export interface TemplateLimits {
  /** Characters of the source. */
  readonly source: number;
  /** Nodes evaluated. */
  readonly steps: number;
  readonly milliseconds: number;
  /** Characters of any text made on the way, the result included. */
  readonly text: number;
  /** Elements of any list made on the way. */
  readonly list: number;
}

const defaultLimits: TemplateLimits = { source: 1 << 18, steps: 5_000_000, milliseconds: 10_000, text: 1 << 24, list: 1 << 20 };

/** A run of white space of this length occurs in no template, and makes the library's expressions for tags take quadratic time. */
const longBlank = /\s{2000}/;

export interface JinjaTemplate {
  /**
   * The text of the template for these variables.
   * @throws UserError with the line of the template at fault, and that of `raise_exception` with its message.
   */
  render(variables: Readonly<Record<string, unknown>>): string;
}

/**
 * Reads a Jinja template. What Transformers gives its templates is there: `raise_exception`, `strftime_now`, `tojson`, `range`, loop controls and
 * `{% generation %}` (whose content is rendered and not marked).
 * @param name what the template is called in messages
 * @throws UserError with the line that is no Jinja, or that uses a tag @huggingface/jinja does not know.
 */
export function compileJinja(source: string, name: string, limits: Partial<TemplateLimits> = {}): JinjaTemplate {
  const bounds = { ...defaultLimits, ...limits };
  if (source.length > bounds.source)
    throw new UserError(`${name}: has ${source.length} characters, at most ${bounds.source} are read as a template`);
  if (longBlank.test(source)) throw new UserError(`${name}: has a run of white space of more than 2000 characters`);
  const tokens = lex(source, name);
  const { program, positions } = parse(source, tokens, name);
  return { render: (variables) => render(program, variables, bounds, (error, place) => describe(error, source, positions, place, name)) };
}

function lex(source: string, name: string): readonly TemplateToken[] {
  try {
    return lexTemplate(source);
  } catch (cause) {
    const offset = findBadTag(source, lexTemplate);
    const what = messageOf(cause) === "Unexpected end of input" ? "a tag or a text in quotes is not closed" : messageOf(cause);
    throw new UserError(`${name}${offset === undefined ? "" : `, in the tag that begins on ${showPlace(source, offset)}`}: ${what}`, {
      cause,
    });
  }
}

function parse(source: string, tokens: readonly TemplateToken[], name: string): { program: TemplateNode; positions: Positions } {
  // The parser's errors say what and not where: the last token that it looked at is where.
  let last = 0;
  const watched = new Proxy(tokens, {
    get: (target, key): unknown => {
      if (typeof key === "string" && /^\d+$/.test(key)) last = Number(key);
      return Reflect.get(target, key);
    },
  });
  try {
    const program = parseTemplate(watched);
    return { program, positions: locate(source, tokens, program) };
  } catch (cause) {
    if (isOverflow(cause)) throw new UserError(`${name}: is nested too deeply`, { cause });
    const offsets = tokenOffsets(source, tokens);
    if (last < tokens.length) {
      const offset = offsets[last];
      throw new UserError(`${name}${offset === undefined ? "" : `, ${showPlace(source, offset)}`}: ${parserMessage(cause)}`, { cause });
    }
    const open = openBlock(tokens);
    const offset = open === undefined ? undefined : offsets[open];
    const where = offset === undefined ? "" : `; the block that is still open begins on ${showPlace(source, offset)}`;
    throw new UserError(`${name}: unexpected end of the template${where}`, { cause });
  }
}

/** "Parser Error: Expected %} token. Text !== CloseStatement." without the name of the part that says so. */
function parserMessage(cause: unknown): string {
  return messageOf(cause)
    .replace(/^Parser Error: /, "")
    .replace(/\.$/, "");
}

/** The index of the tag that opens the innermost block without an end. */
function openBlock(tokens: readonly TemplateToken[]): number | undefined {
  const open: number[] = [];
  tokens.forEach(({ type }, i) => {
    const word = tokens[i + 1]?.value ?? "";
    if (type !== "OpenStatement") return;
    if (word.startsWith("end")) open.pop();
    else if (["if", "for", "macro", "call", "filter"].includes(word) || (word === "set" && isSetBlock(tokens, i))) open.push(i);
  });
  return open.at(-1);
}

function isSetBlock(tokens: readonly TemplateToken[], start: number): boolean {
  const end = tokens.findIndex(({ type }, i) => i > start && type === "CloseStatement");
  return end > 0 && !tokens.slice(start, end).some(({ type }) => type === "Equals");
}

function render(
  program: TemplateNode,
  variables: Readonly<Record<string, unknown>>,
  limits: TemplateLimits,
  describeError: (error: unknown, nodes: readonly TemplateNode[]) => UserError,
): string {
  // The nodes that an error has passed, the innermost first. `break` and `continue` are errors too, which end at their loop.
  let failure: { readonly error: unknown; readonly nodes: readonly TemplateNode[] } = { error: undefined, nodes: [] };
  try {
    const interpreter = createTemplateInterpreter({ ...globals, ...variables });
    keepLoopText(interpreter);
    watch(interpreter, limits, (error, node) => {
      failure = { error, nodes: failure.error === error ? [...failure.nodes, node] : [node] };
    });
    return String(interpreter.run(program).value);
  } catch (error) {
    throw describeError(error, failure.error === error ? failure.nodes : []);
  }
}

function watch(interpreter: TemplateInterpreter, limits: TemplateLimits, onError: (error: unknown, node: TemplateNode) => void): void {
  const evaluate = interpreter.evaluate.bind(interpreter);
  const deadline = performance.now() + limits.milliseconds;
  let steps = 0;
  interpreter.evaluate = (node, scope) => {
    if (node === undefined) return evaluate(node, scope);
    try {
      steps += 1;
      if (steps > limits.steps) throw new Error(`takes more than ${limits.steps} steps`);
      if (performance.now() > deadline) throw new Error(`takes longer than ${limits.milliseconds / 1000} s`);
      const result = evaluate(node, scope);
      const { value } = result;
      if (typeof value === "string" && value.length > limits.text) throw new Error(`makes a text of more than ${limits.text} characters`);
      if (Array.isArray(value) && value.length > limits.list) throw new Error(`makes a list of more than ${limits.list} elements`);
      return result;
    } catch (error) {
      onError(error, node);
      throw error;
    }
  };
}

function describe(error: unknown, source: string, positions: Positions, nodes: readonly TemplateNode[], name: string): UserError {
  const what = isOverflow(error)
    ? "is nested too deeply, or calls itself without end"
    : messageOf(error) || "break or continue outside a loop";
  const found = nodes.findIndex((node) => positions.nodes.has(node));
  if (found < 0) return new UserError(`${name}: ${what}`, { cause: error });
  const place = showPlace(source, positions.nodes.get(nodes[found]!)!);
  return new UserError(`${name}, ${found === 0 ? "" : "near "}${place}: ${what}`, { cause: error });
}

function isOverflow(error: unknown): boolean {
  return error instanceof RangeError && /call stack/i.test(error.message);
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** What a template finds beside its variables, as Transformers' environment has it. */
const globals: Readonly<Record<string, unknown>> = {
  true: true,
  false: false,
  none: null,
  True: true,
  False: false,
  None: null,
  raise_exception: (message: unknown): never => {
    throw new Error(String(message));
  },
  range,
  strftime_now: (format: unknown): string => strftime(new Date(), String(format)),
};

/** As Jinja's sandbox, which Transformers uses, bounds it. */
const longestRange = 100_000;

function range(...given: readonly unknown[]): readonly number[] {
  const [a, b, step = 1] = given;
  const [start, stop] = b === undefined ? [0, a] : [a, b];
  if (![start, stop, step].every((value) => Number.isSafeInteger(value))) throw new Error("range() takes whole numbers");
  if (step === 0) throw new Error("range() step must not be zero");
  const length = Math.max(0, Math.ceil(((stop as number) - (start as number)) / (step as number)));
  if (length > longestRange) throw new Error(`range() of ${length} elements, at most ${longestRange} are allowed`);
  return Array.from({ length }, (_, i) => (start as number) + i * (step as number));
}

const months = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];
const days = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/** Python's strftime in its C locale, whatever the machine's language is, so that a prompt does not depend on it. Unknown directives stay as they are. */
function strftime(date: Date, format: string): string {
  const two = (value: number): string => String(value).padStart(2, "0");
  const hour12 = date.getHours() % 12 || 12;
  const directives: Readonly<Record<string, string>> = {
    Y: String(date.getFullYear()),
    y: two(date.getFullYear() % 100),
    m: two(date.getMonth() + 1),
    d: two(date.getDate()),
    H: two(date.getHours()),
    I: two(hour12),
    M: two(date.getMinutes()),
    S: two(date.getSeconds()),
    p: date.getHours() < 12 ? "AM" : "PM",
    B: months[date.getMonth()]!,
    b: months[date.getMonth()]!.slice(0, 3),
    A: days[date.getDay()]!,
    a: days[date.getDay()]!.slice(0, 3),
    "%": "%",
  };
  // "%-d" is %d without its zero in front, as glibc has it.
  return format.replace(/%(-?)([A-Za-z%])/g, (whole, bare: string, key: string) => {
    const text = Object.hasOwn(directives, key) ? directives[key]! : whole;
    return bare === "" || text === whole ? text : text.replace(/^0(?=\d)/, "");
  });
}

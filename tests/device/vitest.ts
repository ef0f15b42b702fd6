import { inspect, format } from "node:util";
import { chai, GLOBAL_EXPECT, JestAsymmetricMatchers, JestChaiExpect, JestExtend } from "@vitest/expect";

/**
 * As much of vitest as the suites for devices use, in one file that runs under plain `node`: such a machine has no npm. The bundle (scripts/device.mjs)
 * puts it in vitest's place; its matchers are vitest's own.
 */
/** Takes the context, or in `each` a row. */
type Body = (...args: never[]) => unknown;
interface Context {
  /** Ends the test without a verdict. */
  skip(why?: string): never;
}
interface Options {
  readonly timeout?: number;
}

interface Test {
  readonly path: readonly string[];
  readonly body: Body;
  readonly args: readonly unknown[];
  readonly timeout: number | undefined;
  readonly skipped: boolean;
}
interface Suite {
  readonly path: readonly string[];
  readonly skipped: boolean;
  readonly entries: (Test | Suite)[];
  readonly before: (() => unknown)[];
  readonly after: (() => unknown)[];
}

const suiteAt = (path: readonly string[], skipped: boolean): Suite => ({ path, skipped, entries: [], before: [], after: [] });
const root = suiteAt([], false);
let current = root;
const defaultTimeout = 300_000;

function addSuite(name: string, body: () => void, skipped = false): void {
  const outer = current;
  const suite = suiteAt([...outer.path, name], skipped || outer.skipped);
  outer.entries.push(suite);
  current = suite;
  body();
  current = outer;
}

function addTest(name: string, args: readonly unknown[], given: readonly Given[], skipped = false): void {
  const body = given.find((x) => typeof x === "function");
  if (body === undefined) throw new Error(`test "${name}" has no body`);
  const timeout = given
    .map((x) => (typeof x === "number" ? x : typeof x === "object" ? x.timeout : undefined))
    .find((x) => x !== undefined);
  current.entries.push({ path: [...current.path, name], body, args, timeout, skipped: skipped || current.skipped });
}

/** "%s" of each row's first values; a row that is no list is its one value. */
const each =
  <B>(add: (name: string, row: readonly unknown[], body: B, rest: readonly B[]) => void) =>
  (rows: readonly unknown[]) =>
  (name: string, body: B, ...rest: B[]): void => {
    for (const row of rows) {
      const values: readonly unknown[] = Array.isArray(row) ? row : [row];
      const used = (name.match(/%[sdji]/g) ?? []).length;
      add(format(name, ...values.slice(0, used)), values, body, rest);
    }
  };

type Given<B = Body> = B | Options | number | undefined;
type SuiteBody = (...args: never[]) => void;
const callSuite = (body: SuiteBody, row: readonly unknown[]): void => void body(...(row as never[]));
const eachSuite = each<SuiteBody>((name, row, body) => {
  addSuite(name, () => callSuite(body, row));
});
const describeOr = (skipped: boolean) =>
  Object.assign((name: string, body: () => void) => addSuite(name, body, skipped), { each: eachSuite });
export const describe = Object.assign(describeOr(false), {
  skipIf: (when: boolean) => describeOr(when),
  runIf: (when: boolean) => describeOr(!when),
});

const eachTest = each<Given>((name, row, body, rest) => addTest(name, row, [body, ...rest]));
const testOr = (skipped: boolean) =>
  Object.assign((name: string, ...given: readonly Given<(context: Context) => unknown>[]) => addTest(name, [], given, skipped), {
    each: eachTest,
  });
export const test = Object.assign(testOr(false), { skipIf: (when: boolean) => testOr(when), runIf: (when: boolean) => testOr(!when) });
export const beforeAll = (body: () => unknown): void => void current.before.push(body);
export const afterAll = (body: () => unknown): void => void current.after.push(body);

chai.use(JestExtend);
chai.use(JestChaiExpect);
chai.use(JestAsymmetricMatchers);
export const expect: unknown = Object.assign((value: unknown, message?: string) => chai.expect(value, message), chai.expect);
(globalThis as Record<symbol, unknown>)[GLOBAL_EXPECT] ??= expect;

class Skipped extends Error {}

export interface Summary {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
}

/** Runs what was declared, one test after the other. @param wanted tests whose names, joined by " > ", match */
export async function runTests(wanted: RegExp, say: (line: string) => void): Promise<Summary> {
  const summary = { passed: 0, failed: 0, skipped: 0 };
  await runSuite(root, wanted, say, summary);
  return summary;
}

async function runSuite(
  suite: Suite,
  wanted: RegExp,
  say: (line: string) => void,
  summary: { passed: number; failed: number; skipped: number },
): Promise<void> {
  if (!testsOf(suite).some((test) => chosen(test, wanted))) {
    summary.skipped += testsOf(suite).length;
    return;
  }
  const hooks = async (bodies: readonly (() => unknown)[], what: string): Promise<boolean> => {
    try {
      for (const body of bodies) await body();
      return true;
    } catch (error) {
      summary.failed += 1;
      say(`FAILED ${[...suite.path, what].join(" > ")}\n${textOf(error)}`);
      return false;
    }
  };
  const ready = await hooks(suite.before, "beforeAll");
  for (const entry of ready ? suite.entries : [])
    if ("entries" in entry) await runSuite(entry, wanted, say, summary);
    else if (chosen(entry, wanted)) summary[await runTest(entry, say)] += 1;
    else summary.skipped += 1;
  if (ready) await hooks(suite.after, "afterAll");
}

const testsOf = (suite: Suite): Test[] => suite.entries.flatMap((entry) => ("entries" in entry ? testsOf(entry) : [entry]));
const chosen = ({ path, skipped }: Test, wanted: RegExp): boolean => !skipped && wanted.test(path.join(" > "));

async function runTest({ path, body, args, timeout = defaultTimeout }: Test, say: (line: string) => void): Promise<keyof Summary> {
  const name = path.join(" > ");
  const started = performance.now();
  const context: Context = {
    skip: () => {
      throw new Skipped();
    },
  };
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`it took more than ${timeout} ms`)), timeout);
  });
  try {
    // vitest gives rows of `each` as arguments, and its context where there are none
    await Promise.race([body(...((args.length > 0 ? args : [context]) as never[])), late]);
    say(`ok     ${name} (${Math.round(performance.now() - started)} ms)`);
    return "passed";
  } catch (error) {
    if (error instanceof Skipped) return "skipped";
    say(`FAILED ${name}\n${textOf(error)}`);
    return "failed";
  } finally {
    clearTimeout(timer);
  }
}

/** The message and the nearest calls, with what was expected where a matcher knows it; short, since what a device machine says is cut. */
function textOf(error: unknown): string {
  if (!(error instanceof Error)) return inspect(error);
  const { expected, actual } = error as { readonly expected?: unknown; readonly actual?: unknown };
  const compared = expected === undefined ? "" : `\n  expected ${inspect(expected, SHORT)}\n  got      ${inspect(actual, SHORT)}`;
  const cause = error.cause instanceof Error ? `\n  because ${error.cause.message}` : "";
  const calls = (error.stack ?? "")
    .split("\n")
    .filter((line) => line.startsWith("    at "))
    .slice(0, 4);
  return `  ${error.message.slice(0, 2000)}${cause}${compared}\n${calls.join("\n")}`;
}
const SHORT = { depth: 4, breakLength: 160, maxArrayLength: 12, maxStringLength: 400 } as const;

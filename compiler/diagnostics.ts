/** Where in the model's source an operation was written. */
export interface Site {
  readonly file: string;
  readonly line: number;
  readonly col: number;
}

export const printSite = (s: Site): string => `${s.file}:${s.line}:${s.col}`;

/** One operand of the operation that failed: what it is called there, what it is, and where it came from. */
export interface Operand {
  readonly label: string;
  readonly is: string;
  readonly from: string;
}

/** Everything a person needs to mend a mistake. Only `what` is required; say as much of the rest as is known. */
export interface Diagnosis {
  /** What is wrong, in a few words: "inner sizes differ". */
  readonly what: string;
  readonly at?: Site | null;
  /** The operation's dotted path, or the file or field at fault. */
  readonly path?: string;
  readonly operands?: readonly Operand[];
  readonly expected?: string;
  readonly got?: string;
  /** What to do about it, as an instruction. */
  readonly fix?: string;
}

/**
 * A mistake in what the user gave (a model, a checkpoint, a flag), as opposed to one of ours. Its name tells the command line to print the message
 * without a stack.
 */
export class CulmError extends Error {
  override readonly name = "UserError";
  readonly what: string;
  /** `file:line:col  path`, as far as known. */
  readonly where: string;
  readonly operands: readonly Operand[];
  readonly expected: string | undefined;
  readonly got: string | undefined;
  readonly fix: string | undefined;

  constructor(d: Diagnosis) {
    super(printDiagnosis(d));
    this.what = d.what;
    this.where = whereOf(d);
    this.operands = d.operands ?? [];
    this.expected = d.expected;
    this.got = d.got;
    this.fix = d.fix;
  }
}

const whereOf = (d: Diagnosis): string => [d.at ? printSite(d.at) : "", d.path ?? ""].filter((s) => s !== "").join("  ");

/**
 * ```
 * models/bamba/model.ts:42:7  layers.9.mamba.out_proj: inner sizes differ
 *   a         f32[batch, seq, 8192]  from gatedRmsNorm at model.ts:41:10
 *   expected  ...
 *   fix: ...
 * ```
 */
export function printDiagnosis(d: Diagnosis): string {
  const where = whereOf(d);
  const rows: [label: string, text: string, from: string][] = (d.operands ?? []).map((o) => [o.label, o.is, o.from]);
  const isWidth = Math.max(0, ...rows.map((r) => r[1].length));
  const lines = rows.map(([label, is, from]): [string, string] => [label, from === "" ? is : `${is.padEnd(isWidth)}  ${from}`]);
  if (d.expected !== undefined) lines.push(["expected", d.expected]);
  if (d.got !== undefined) lines.push(["got", d.got]);
  const labelWidth = Math.max(0, ...lines.map((l) => l[0].length));
  return [
    where === "" ? d.what : `${where}: ${d.what}`,
    ...lines.map(([label, text]) => `  ${label.padEnd(labelWidth)}  ${text}`),
    ...(d.fix === undefined ? [] : [`  fix: ${d.fix}`]),
  ].join("\n");
}

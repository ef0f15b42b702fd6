/**
 * The error of everything that a person can put right: a wrong file, field, flag or size. The command line prints its message and hint
 * without a stack trace and exits with 1; any other error is a bug of ours and keeps its stack.
 *
 * It is recognised by `name`, not by `instanceof`: a model may not import the runtime (docs/architecture.md), so `models/*` throw their own
 * class with the same `name` and the same optional `hint`.
 */
export class UserError extends Error {
  override readonly name: string = "UserError";
  /** What to do about it, in one sentence; undefined when the message says it already. */
  readonly hint: string | undefined;

  constructor(message: string, options: { readonly hint?: string; readonly cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.hint = options.hint;
  }
}

/**
 * The device is gone, by a driver's reset or because it was taken away: what it held is lost, and opening it again is worth a try (after a fault of a kernel
 * CUDA refuses that until the process has ended, and the error then says so).
 */
export class DeviceLostError extends UserError {}

/** Whether `error` is for the user to mend (see UserError), whichever class it was thrown as. */
export function isUserError(error: unknown): error is Error & { readonly hint?: string | undefined } {
  return error instanceof Error && error.name === "UserError";
}

/** A value as it reads in an error message: short, on one line, never throwing on what a stranger's file holds. */
export function shown(value: unknown, limit = 60): string {
  let text: string;
  try {
    const json = typeof value === "bigint" ? value.toString() : (JSON.stringify(value) as unknown);
    // undefined, a function and a symbol have no JSON.
    text = typeof json === "string" ? json : typeof value;
  } catch {
    text = typeof value;
  }
  return text.length > limit ? `${text.slice(0, limit)}...` : text;
}

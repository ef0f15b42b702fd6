/**
 * A configuration or checkpoint that a person has to put right. A model may not import the runtime, so this is not the runtime's UserError;
 * it has the same `name` and the same optional `hint`, by which the command line recognises it (runtime/errors.ts) and prints the message
 * without a stack trace.
 */
export class ConfigError extends Error {
  override readonly name: string = "UserError";
  /** What to do about it, in one sentence; undefined when the message says it already. */
  readonly hint: string | undefined;

  constructor(message: string, options: { readonly hint?: string; readonly cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.hint = options.hint;
  }
}

import type { SingleBar } from "cli-progress";
import { isUserError } from "../errors.ts";

export { formatBytes, formatCount, formatTime, significant } from "../format.ts";

/** Where a command speaks. Standard output has what was asked for and nothing else; everything beside it goes to standard error. */
export interface Terminal {
  readonly out: (text: string) => void;
  readonly err: (text: string) => void;
  /** Whether a person watches standard error. */
  readonly interactive: boolean;
  /** Aborted by Ctrl-C: what runs ends at the next token, and what is done so far is shown. */
  readonly signal: AbortSignal;
  /** Gives Ctrl-C to a command that has a use of its own for it, until the function returned is called. */
  readonly onInterrupt: (handler: () => void) => () => void;
}

/** Says what went wrong and gives the exit code, which is 1. A mistake that a person can mend has a message; one of ours has its stack. */
export function reportError(error: unknown, terminal: Pick<Terminal, "err">): number {
  if (isUserError(error)) {
    const hint = error.hint === undefined || error.message.includes(error.hint) ? "" : `\nhint: ${error.hint}`;
    terminal.err(`error: ${error.message}${hint}\n`);
    return 1;
  }
  terminal.err(
    `${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n\nThis is a bug in culm. Please report it with the lines above.\n`,
  );
  return 1;
}

/** How long something may take before it is worth a bar. */
const patience = 1000;

/** A progress bar that appears when the work turns out to take more than a second, and only where a person watches. */
export class Progress {
  private readonly interactive: boolean;
  private readonly what: string;
  private readonly unit: (value: number) => string;
  private readonly started = performance.now();
  private bar: SingleBar | undefined;
  private making = false;
  private done = false;

  constructor(interactive: boolean, what: string, unit: (value: number) => string = String) {
    this.interactive = interactive;
    this.what = what;
    this.unit = unit;
  }

  update(value: number, total: number): void {
    if (this.bar !== undefined) {
      this.bar.setTotal(total);
      this.bar.update(value, { shown: this.unit(value), all: this.unit(total) });
    } else if (this.interactive && !this.making && !this.done && performance.now() - this.started > patience) {
      this.making = true;
      void this.show(value, total);
    }
  }

  private async show(value: number, total: number): Promise<void> {
    const { default: progress } = await import("cli-progress");
    if (this.done) return;
    const format = `${this.what} [{bar}] {shown} of {all}`;
    this.bar = new progress.SingleBar({ format, stream: process.stderr, clearOnComplete: true, hideCursor: true, noTTYOutput: false });
    this.bar.start(total, value, { shown: this.unit(value), all: this.unit(total) });
  }

  stop(): void {
    this.done = true;
    this.bar?.stop();
  }
}

import { spawn } from "node:child_process";
import { join } from "node:path";
import { vi } from "vitest";
import { main } from "../../runtime/cli/main.ts";
import { projectRoot } from "../../scripts/build.mjs";

export interface Outcome {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** Runs the command line in this process and catches what it says. */
export async function culm(...argv: readonly string[]): Promise<Outcome> {
  let out = "";
  let err = "";
  const stdout = vi.spyOn(process.stdout, "write").mockImplementation((text) => ((out += String(text)), true));
  const stderr = vi.spyOn(process.stderr, "write").mockImplementation((text) => ((err += String(text)), true));
  try {
    const code = await main(argv);
    return { code, out, err };
  } finally {
    stdout.mockRestore();
    stderr.mockRestore();
  }
}

export interface Ended {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

/** A running command: what a person can do to it. */
export interface Running {
  /** Ctrl-C */
  interrupt(): void;
  type(text: string): void;
}

export interface LaunchOptions {
  readonly env?: Readonly<Record<string, string>>;
  /** Standard input, which then ends; unless given it stays open until the command ends. */
  readonly input?: string;
  /** The same, and standard input stays open. */
  readonly typed?: string;
  /** Called with all of standard output so far, each time that something comes. */
  readonly during?: (out: string, running: Running) => void;
}

/** Starts bin/culm.js, as a user does. */
export function launch(argv: readonly string[], { env = {}, input, typed, during }: LaunchOptions = {}): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [join(projectRoot, "bin/culm.js"), ...argv], { env: { ...process.env, ...env } });
    const running: Running = { interrupt: () => void child.kill("SIGINT"), type: (text) => void child.stdin.write(text) };
    let out = "";
    let err = "";
    child.stdout.on("data", (data: Buffer) => {
      out += data.toString();
      during?.(out, running);
    });
    child.stderr.on("data", (data: Buffer) => (err += data.toString()));
    child.on("error", reject);
    child.on("close", (code) => resolve({ code, out, err }));
    if (input !== undefined) child.stdin.end(input);
    if (typed !== undefined) child.stdin.write(typed);
  });
}

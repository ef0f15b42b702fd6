import type { Executor } from "../../runtime/executor.ts";

/** Where the host's thread spends a token, in milliseconds. */
export interface HostTime {
  /** Telling the device of inputs. */
  readonly write: number;
  /** Until the step is under way: symbols, and the launch. */
  readonly launch: number;
  /** From asking for the token until it is here: mostly the device's own time. */
  readonly wait: number;
  /** The session's own work. */
  readonly rest: number;
}

/** What passes between a session and its executor, timed. */
export interface Stopwatch {
  readonly executor: Executor;
  /** What `body` took, and where. */
  token(body: () => Promise<void>): Promise<HostTime & { readonly total: number }>;
}

/** An executor that times what is asked of it. */
export function stopwatch(executor: Executor): Stopwatch {
  const spent = { write: 0, launch: 0, wait: 0 };
  const timed = <T>(part: keyof typeof spent, body: () => T): T => {
    const started = performance.now();
    const result = body();
    spent[part] += performance.now() - started;
    return result;
  };
  return {
    executor: {
      ...executor,
      get allocations() {
        return executor.allocations;
      },
      wrote: (name, first, count) => timed("write", () => executor.wrote(name, first, count)),
      run: (program, symbols) => timed("launch", () => executor.run(program, symbols)),
      async fetch(name, count) {
        const started = performance.now();
        await executor.fetch(name, count);
        spent.wait += performance.now() - started;
      },
    },
    async token(body) {
      Object.assign(spent, { write: 0, launch: 0, wait: 0 });
      const started = performance.now();
      await body();
      const total = performance.now() - started;
      const { write, launch, wait } = spent;
      return { total, write, launch, wait, rest: total - write - launch - wait };
    },
  };
}

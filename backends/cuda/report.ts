/** What the assembler says of a kernel (`ptxas -v`). */
export interface Report {
  readonly registers: number;
  /** Bytes of a thread's stack, which is in device memory. */
  readonly stack: number;
  readonly spillStores: number;
  readonly spillLoads: number;
}

/** The reports in a compiler's log, by kernel. A log without any gives none. */
export function reportsOf(log: string): ReadonlyMap<string, Report> {
  const found = new Map<string, Report>();
  let entry: string | null = null;
  let memory = { stack: 0, spillStores: 0, spillLoads: 0 };
  for (const text of log.split("\n")) {
    const started = /Compiling entry function '([^']+)'/.exec(text);
    if (started) {
      entry = started[1]!;
      memory = { stack: 0, spillStores: 0, spillLoads: 0 };
    }
    const frame = /(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/.exec(text);
    if (frame) {
      const [stack, spillStores, spillLoads] = frame.slice(1).map(Number) as [number, number, number];
      memory = { stack, spillStores, spillLoads };
    }
    const used = /Used (\d+) registers/.exec(text);
    if (used && entry !== null) {
      found.set(entry, { registers: Number(used[1]), ...memory });
      entry = null;
    }
  }
  return found;
}

/** What is wrong with a kernel by its report, or null: registers that are in memory cost more than any configuration gains. */
export function complaintOf({ registers, stack, spillStores, spillLoads }: Report): string | null {
  if (stack === 0 && spillStores === 0 && spillLoads === 0) return null;
  return `it keeps registers in memory: ${stack} bytes of stack, ${spillStores} bytes of spill stores and ${spillLoads} of spill loads with ${registers} registers`;
}

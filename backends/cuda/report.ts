/** What the assembler says of a kernel (`ptxas -v`). */
export interface Report {
  readonly registers: number;
  /** Bytes of a thread's stack, which is in device memory. */
  readonly stack: number;
  readonly spillStores: number;
  readonly spillLoads: number;
  /** The assembler has products wait for each other that were to be computed while others are (C7510 and the like): it says why. */
  readonly serialised?: string;
}

/** The reports in a compiler's log, by kernel. A log without any gives none. */
export function reportsOf(log: string): ReadonlyMap<string, Report> {
  const found = new Map<string, Report>();
  let entry: string | null = null;
  let memory = { stack: 0, spillStores: 0, spillLoads: 0 };
  const serialised = new Map<string, string>();
  for (const text of log.split("\n")) {
    const warned =
      /Potential Performance Loss: (wgmma\.mma_async instructions are serialized due to .*) in (?:the )?function '([^']+)'/.exec(text);
    if (warned) serialised.set(warned[2]!, warned[1]!);
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
      const why = serialised.get(entry);
      found.set(entry, { registers: Number(used[1]), ...memory, ...(why === undefined ? {} : { serialised: why }) });
      entry = null;
    }
  }
  return found;
}

/** What is wrong with a kernel by its report, or null: registers that are in memory cost more than any configuration gains. */
export function complaintOf({ registers, stack, spillStores, spillLoads, serialised }: Report): string | null {
  if (serialised !== undefined) return `the assembler makes its products wait for each other: ${serialised}`;
  if (stack === 0 && spillStores === 0 && spillLoads === 0) return null;
  return `it keeps registers in memory: ${stack} bytes of stack, ${spillStores} bytes of spill stores and ${spillLoads} of spill loads with ${registers} registers`;
}

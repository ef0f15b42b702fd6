/**
 * The memory that the driver and the native pool share, in bytes. What different workers write at the same time lies in cache lines of its own
 * (128 bytes: pairs of lines are fetched together on x86, and arm64 has lines of that size).
 */
const LINE = 128;

export const CONTROL = {
  /** i32, grows by one a run; the word that sleeping workers wait on. */
  generation: 0,
  /** i32: workers asleep. */
  sleepers: LINE,
  /** i32: workers that have come to the barrier. */
  arrived: 2 * LINE,
  /** i32, grows by one a barrier. */
  phase: 3 * LINE,
  // the job, written by the caller before it changes `generation`
  steps: 4 * LINE,
  grids: 4 * LINE + 8,
  count: 4 * LINE + 16,
  times: 4 * LINE + 24,
  // what never changes
  threads: 5 * LINE,
  scratch: 5 * LINE + 8,
  records: 5 * LINE + 16,
  spin: 5 * LINE + 24,
  stop: 5 * LINE + 28,
  bytes: 6 * LINE,
} as const;

/** What a worker is started with. */
export const RECORD = { control: 0, id: 8, thread: 16, bytes: LINE } as const;

export const STEP = {
  kernel: 0,
  args: 8,
  symbols: 16,
  /** i64: the next block to claim. */
  next: LINE,
  bytes: 2 * LINE,
} as const;

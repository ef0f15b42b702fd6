/** One copy of a whole row. `spare` stands for a row beside the others. */
export interface RowMove {
  readonly to: number;
  readonly from: number;
}

/** The row number of the spare row. */
const spareRow = -1;

/**
 * The copies, to be done in order, after which row i holds what row source[i] held before. Nothing is overwritten that is still to be read, and rows
 * that stay are left alone, so one spare row is enough however many rows there are: it takes the first row of each cycle.
 */
export function rowMoves(source: ArrayLike<number>): readonly RowMove[] {
  const moves: RowMove[] = [];
  const pending = new Set<number>();
  const readers = new Map<number, number>();
  for (let to = 0; to < source.length; to += 1) {
    const from = source[to]!;
    if (from === to) continue;
    pending.add(to);
    readers.set(from, (readers.get(from) ?? 0) + 1);
  }
  const free = [...pending].filter((row) => !readers.has(row));
  for (let to = free.pop(); to !== undefined; to = free.pop()) {
    const from = source[to]!;
    moves.push({ to, from });
    pending.delete(to);
    const left = readers.get(from)! - 1;
    readers.set(from, left);
    if (left === 0 && pending.has(from)) free.push(from);
  }
  // Each row that is left is read by exactly one other of them: cycles.
  for (const first of pending) {
    moves.push({ to: spareRow, from: first });
    let to = first;
    for (; source[to] !== first; to = source[to]!) {
      moves.push({ to, from: source[to]! });
      pending.delete(to);
    }
    moves.push({ to, from: spareRow });
    pending.delete(to);
  }
  return moves;
}

/** What of a row is in use, in elements: `runs` pieces of `length`, `stride` apart. */
export interface RowPart {
  /** From the start of a row to that of the next. */
  readonly size: number;
  readonly runs: number;
  readonly length: number;
  readonly stride: number;
}

/** Does the moves with `copy`, which takes two buffers, offsets into them and a length in the unit of `part`. The spare buffer has room for one row. */
export function copyRows<T>(
  buffer: T,
  spare: T,
  moves: readonly RowMove[],
  { size, runs, length, stride }: RowPart,
  copy: (to: T, toOffset: number, from: T, fromOffset: number, count: number) => void,
): void {
  for (const { to, from } of moves) {
    const target = to === spareRow ? spare : buffer;
    const origin = from === spareRow ? spare : buffer;
    const targetStart = to === spareRow ? 0 : to * size;
    const originStart = from === spareRow ? 0 : from * size;
    for (let run = 0; run < runs; run += 1) copy(target, targetStart + run * stride, origin, originStart + run * stride, length);
  }
}

/** `copyRows` within an array of the host. */
export function moveArrayRows<T extends Float64Array | Float32Array | Int32Array | Uint16Array | Uint8Array>(
  array: T,
  moves: readonly RowMove[],
  part: RowPart,
): void {
  if (moves.length === 0) return;
  const spare = array.slice(0, part.size) as T;
  copyRows<T>(array, spare, moves, part, (to, toOffset, from, fromOffset, count) =>
    to.set(from.subarray(fromOffset, fromOffset + count), toOffset),
  );
}

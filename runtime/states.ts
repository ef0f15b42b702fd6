import type { TensorEntry } from "../compiler/artifact.ts";
import { evaluateIntExpr } from "../compiler/artifact.ts";
import { UserError } from "./errors.ts";
import type { Executor, HostArray } from "./executor.ts";
import type { RowMove } from "./rows.ts";
import type { Snapshot, StateValue } from "./session.ts";

/**
 * The states of a session on its executor. What is in use of them is their first rows, and of a state that runs over positions (a key/value cache) the
 * positions before `past`: only that is copied. Rings of inputs (ringStates of SessionOptions) are in use up to what they hold; they are empty where states are read,
 * written or cleared, so that a value of the states has nothing of them and fits sessions with and without.
 */
export interface States {
  /** Copies `rows` rows out. */
  read(rows: number, past: number): Promise<Snapshot["states"]>;
  /** @throws UserError when what was read is not `rows` rows and `past` positions of these states. */
  check(states: Snapshot["states"], rows: number, past: number): void;
  /** Copies in what was read. */
  write(states: Snapshot["states"], rows: number, past: number): Promise<void>;
  /** Rows change places (rows.ts), on the device, with `held` inputs in each ring. */
  moveRows(moves: readonly RowMove[], past: number, held: number): Promise<void>;
  /** Sets them to what they are before the first token. */
  clear(): Promise<void>;
}

/** `blocks` runs of `length` elements, `stride` apart. */
interface UsedPart {
  readonly shape: readonly number[];
  readonly blocks: number;
  readonly length: number;
  readonly stride: number;
}

/** Rings run over inputs on the axis after the rows. */
const RING_AXIS = 1;

/**
 * @param positionAxes the axis that runs over positions, of states that have one
 * @param ringStates the states that are rings of inputs
 */
export function openStates(
  executor: Executor,
  maxRows: number,
  positionAxes: Readonly<Record<string, number>>,
  ringStates: ReadonlySet<string>,
): States {
  const shapeOf = ({ shape }: TensorEntry): readonly number[] => shape.map((size) => evaluateIntExpr(size, { batch: maxRows }));
  const along = (entry: TensorEntry, rows: number, axis: number, count: number): UsedPart => {
    const full = shapeOf(entry);
    const inner = product(full.slice(axis + 1));
    const shape = [rows, ...full.slice(1)].with(axis, count);
    return { shape, blocks: product(shape.slice(0, axis)), length: count * inner, stride: full[axis]! * inner };
  };
  const used = (entry: TensorEntry, rows: number, past: number): UsedPart => {
    const axis = positionAxes[entry.name];
    if (axis !== undefined) return along(entry, rows, axis, past);
    const shape = [rows, ...shapeOf(entry).slice(1)];
    return { shape, blocks: 1, length: product(shape), stride: 0 };
  };
  const lasting = executor.states.filter(({ name }) => !ringStates.has(name));

  return {
    async read(rows, past) {
      const states = new Map<string, StateValue>();
      for (const entry of lasting) {
        const { shape, blocks, length, stride } = used(entry, rows, past);
        const data = newArray(entry, blocks * length);
        for (let block = 0; block < blocks; block += 1)
          await executor.readState(entry.name, block * stride, data.subarray(block * length, (block + 1) * length));
        states.set(entry.name, { dtype: entry.dtype, shape, data });
      }
      return states;
    },
    check(states, rows, past) {
      for (const entry of lasting) {
        const { shape } = used(entry, rows, past);
        const held = states.get(entry.name);
        if (held?.dtype !== entry.dtype || held.shape.length !== shape.length || !shape.every((size, i) => size === held.shape[i]))
          throw new UserError(
            `the snapshot is of another model: state ${entry.name} is ${held ? typeText(held.dtype, held.shape) : "missing"}, expected ${typeText(entry.dtype, shape)}`,
          );
      }
    },
    async write(states, rows, past) {
      for (const entry of lasting) {
        const { blocks, length, stride } = used(entry, rows, past);
        const { data } = states.get(entry.name)!;
        for (let block = 0; block < blocks; block += 1)
          await executor.writeState(entry.name, block * stride, data.subarray(block * length, (block + 1) * length));
      }
    },
    async moveRows(moves, past, held) {
      for (const entry of executor.states) {
        const ring = ringStates.has(entry.name);
        if (ring && held === 0) continue;
        const { blocks, length, stride } = ring ? along(entry, 1, RING_AXIS, held) : used(entry, 1, past);
        await executor.moveRows(entry.name, moves, { size: product(shapeOf(entry).slice(1)), runs: blocks, length, stride });
      }
    },
    async clear() {
      // Of a state that runs over positions, and of a ring, nothing beyond what they hold is ever read. Clearing it would touch memory that may never be needed.
      for (const { name } of lasting) if (positionAxes[name] === undefined) await executor.clearState(name);
    },
  };
}

/** A snapshot whose row i is row `source[i]` of another. */
export function snapshotOfRows(snapshot: Snapshot, source: ArrayLike<number>): Snapshot {
  const { rows: before, past, positions, labels, sequenceIds, seen, states } = snapshot;
  const rows = source.length;
  for (let i = 0; i < rows; i += 1)
    if (!Number.isInteger(source[i]) || source[i]! < 0 || source[i]! >= before)
      throw new UserError(`there is no row ${source[i]!}; the snapshot has ${before}`);
  const pick = <T extends HostArray>(data: T): T => {
    const size = data.byteLength / before;
    const bytes = new Uint8Array(rows * size);
    const from = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    for (let i = 0; i < rows; i += 1) bytes.set(from.subarray(source[i]! * size, (source[i]! + 1) * size), i * size);
    return new (data.constructor as new (buffer: ArrayBuffer) => T)(bytes.buffer);
  };
  return {
    rows,
    past,
    positions: pick(positions),
    labels: pick(labels),
    sequenceIds: pick(sequenceIds),
    seen: Array.from({ length: rows }, (_, i) => seen[source[i]!]!),
    states: new Map(
      [...states].map(([name, { dtype, shape, data }]) => [name, { dtype, shape: [rows, ...shape.slice(1)], data: pick(data) }]),
    ),
  };
}

const typeText = (dtype: string, shape: readonly number[]): string => `${dtype} [${shape.join(", ")}]`;
const product = (sizes: readonly number[]): number => sizes.reduce((n, size) => n * size, 1);

function newArray({ dtype }: TensorEntry, length: number): HostArray {
  switch (dtype) {
    case "f32":
      return new Float32Array(length);
    case "i32":
      return new Int32Array(length);
    case "f16":
    case "bf16":
      return new Uint16Array(length);
    case "bool":
      return new Uint8Array(length);
  }
}

import { read, round, write } from "../ir/dtype.ts";
import type { ArrayDecl, RegDecl } from "../ir/thread.ts";
import type { Param } from "../ir/tile.ts";
import type { HostArray } from "./tile.ts";

export type FindingKind = "race" | "block race" | "uninitialised" | "out of range" | "alignment" | "divergence" | "access";

/** One thing that a program must not do. The first occurrence at each statement is kept, with how often it happened. */
export interface Finding {
  readonly kind: FindingKind;
  /** The statement: its position in the program and its text. */
  readonly at: string;
  /** The element concerned, "" where there is none. */
  readonly address: string;
  /** Threads that took part. */
  readonly lanes: readonly number[];
  readonly message: string;
  readonly times: number;
}

/** What is being done at this moment; memory checks itself against it. */
export interface Moment {
  /** Number of the statement being run. */
  statement: number;
  /** The thread being run. */
  lane: number;
  /** Grows at every barrier and with every block. */
  epoch: number;
  block: number;
}

export type Report = (kind: FindingKind, address: string, lanes: readonly number[], message: string) => void;

/** Memory that several lanes may touch. A failed access is reported, reads as 0 and writes nothing. */
export interface Memory {
  readonly name: string;
  get(i: number): number;
  set(i: number, x: number): void;
  /** The value without any check or trace; NaN outside. */
  peek(i: number): number;
  /** Marks elements as the targets of a copy under way (or done): touching them is a race. */
  fly(i: number, flying: boolean): void;
  /** Notes one product more, or one less, under way that reads the element: replacing it is a race. */
  hold(i: number, by: 1 | -1): void;
}

const MANY = -2;

/** Who touched each element last, in which epoch. */
function tracer(name: string, count: number, now: Moment, report: Report, describe: (statement: number) => string) {
  const ints = (): Int32Array => new Int32Array(count);
  const wroteAt = ints(),
    writer = ints(),
    writtenBy = ints();
  const readAt = ints(),
    reader = ints(),
    readBy = ints();
  const clash = (i: number, what: string, other: number, statement: number): void =>
    report(
      "race",
      `${name}[${i}]`,
      other === MANY ? [now.lane] : [other, now.lane],
      `${what} by ${other === MANY ? "several threads" : `thread ${other}`} at ${describe(statement)}, no barrier between`,
    );
  return {
    read(i: number): void {
      if (wroteAt[i] === now.epoch && writer[i] !== now.lane) clash(i, "reads what is written", writer[i]!, writtenBy[i]!);
      reader[i] = readAt[i] !== now.epoch || reader[i] === now.lane ? now.lane : MANY;
      readAt[i] = now.epoch;
      readBy[i] = now.statement;
    },
    write(i: number): void {
      if (wroteAt[i] === now.epoch && writer[i] !== now.lane) clash(i, "writes what is written", writer[i]!, writtenBy[i]!);
      if (readAt[i] === now.epoch && reader[i] !== now.lane) clash(i, "writes what is read", reader[i]!, readBy[i]!);
      wroteAt[i] = now.epoch;
      writer[i] = now.lane;
      writtenBy[i] = now.statement;
    },
  };
}

export interface SharedMemory extends Memory {
  /** A new block finds nothing in it. */
  clear(): void;
}

export function sharedMemory(d: ArrayDecl, now: Moment, report: Report, describe: (statement: number) => string): SharedMemory {
  const data = new Float64Array(d.count);
  const written = new Uint8Array(d.count);
  const flying = new Uint8Array(d.count);
  const held = new Uint16Array(d.count);
  const trace = tracer(d.name, d.count, now, report, describe);
  const usable = (i: number, what: string): boolean => {
    if (!(i >= 0 && i < d.count)) {
      report("out of range", `${d.name}[${i}]`, [now.lane], `${what} outside of ${d.count} elements`);
      return false;
    }
    if (flying[i]) report("race", `${d.name}[${i}]`, [now.lane], `${what} the target of an asynchronous copy that was not waited for`);
    if (held[i] && what !== "reads")
      report("race", `${d.name}[${i}]`, [now.lane], `${what} an operand of a product that was not waited for`);
    return true;
  };
  return {
    name: d.name,
    get(i) {
      if (!usable(i, "reads")) return 0;
      if (!written[i]) report("uninitialised", `${d.name}[${i}]`, [now.lane], "reads what was never written");
      trace.read(i);
      return data[i]!;
    },
    set(i, x) {
      if (!usable(i, "writes")) return;
      trace.write(i);
      data[i] = round(x, d.dtype);
      written[i] = 1;
    },
    peek: (i) => data[i] ?? NaN,
    fly(i, on) {
      if (!on) flying[i] = 0;
      else if (usable(i, "copies to")) {
        // from here on it may be replaced, whoever still reads it
        trace.write(i);
        flying[i] = 1;
      }
    },
    hold(i, by) {
      if (i >= 0 && i < d.count) held[i] = held[i]! + by;
    },
    clear() {
      written.fill(0);
      flying.fill(0);
      held.fill(0);
    },
  };
}

export function globalMemory(q: Param, data: HostArray, now: Moment, report: Report, describe: (statement: number) => string): Memory {
  const usable = (i: number, what: string): boolean => {
    const ok = i >= 0 && i < data.length;
    if (!ok) report("out of range", `${q.name}[${i}]`, [now.lane], `${what} outside of ${data.length} elements`);
    return ok;
  };
  const peek = (i: number): number => read(data, q.dtype, i);
  const fly = (i: number): void => report("access", `${q.name}[${i}]`, [now.lane], "an asynchronous copy goes to shared memory only");
  const hold = (i: number): void => report("access", `${q.name}[${i}]`, [now.lane], "an asynchronous product reads shared memory only");
  if (q.access === "read")
    return {
      name: q.name,
      get: (i) => (usable(i, "reads") ? peek(i) : 0),
      set: (i) => {
        report("access", `${q.name}[${i}]`, [now.lane], "writes a parameter declared as read");
      },
      peek,
      fly,
      hold,
    };
  const trace = tracer(q.name, data.length, now, report, describe);
  // 0: nobody; blocks count from 1
  const writerBlock = new Int32Array(data.length),
    readerBlock = new Int32Array(data.length);
  const blocks = (i: number, what: string, other: number): void =>
    report(
      "block race",
      `${q.name}[${i}]`,
      [now.lane],
      `block ${now.block} ${what} by ${other === MANY ? "several blocks" : `block ${other}`}`,
    );
  return {
    name: q.name,
    get(i) {
      if (!usable(i, "reads")) return 0;
      if (q.access === "write" && writerBlock[i] === 0)
        report(
          "uninitialised",
          `${q.name}[${i}]`,
          [now.lane],
          "reads an element of a parameter declared as write before anything wrote it",
        );
      if (writerBlock[i] !== 0 && writerBlock[i] !== now.block) blocks(i, "reads what is written", writerBlock[i]!);
      readerBlock[i] = readerBlock[i] === 0 || readerBlock[i] === now.block ? now.block : MANY;
      trace.read(i);
      return peek(i);
    },
    set(i, x) {
      if (!usable(i, "writes")) return;
      if (writerBlock[i] !== 0 && writerBlock[i] !== now.block) blocks(i, "writes what is written", writerBlock[i]!);
      if (readerBlock[i] !== 0 && readerBlock[i] !== now.block) blocks(i, "writes what is read", readerBlock[i]!);
      writerBlock[i] = now.block;
      trace.write(i);
      write(data, q.dtype, i, x);
    },
    peek,
    fly,
    hold,
  };
}

/** A register array of every lane of the block. */
export interface Registers {
  readonly decl: RegDecl;
  /** Products under way that add to it: touching it is a race. */
  products: number;
  get(lane: number, i: number): number;
  set(lane: number, i: number, x: number): void;
  clear(): void;
}

export function registers(d: RegDecl, threads: number, report: Report): Registers {
  const data = new Float64Array(threads * d.count);
  const written = new Uint8Array(threads * d.count);
  const usable = (lane: number, i: number, what: string): boolean => {
    const ok = i >= 0 && i < d.count;
    if (!ok) report("out of range", `${d.name}.${i}`, [lane], `${what} outside of ${d.count} registers`);
    if (own.products > 0) report("race", `${d.name}.${i}`, [lane], `${what} the accumulators of a product that was not waited for`);
    return ok;
  };
  const own: Registers = {
    decl: d,
    products: 0,
    get(lane, i) {
      if (!usable(lane, i, "reads")) return 0;
      const at = lane * d.count + i;
      if (!written[at]) report("uninitialised", `${d.name}.${i}`, [lane], "reads what was never written");
      return data[at]!;
    },
    set(lane, i, x) {
      if (!usable(lane, i, "writes")) return;
      const at = lane * d.count + i;
      data[at] = round(x, d.dtype);
      written[at] = 1;
    },
    clear() {
      written.fill(0);
      own.products = 0;
    },
  };
  return own;
}

import type { Caps } from "../backend.ts";
import { BYTES } from "../ir/dtype.ts";
import { evaluateInt, some } from "../ir/expr.ts";
import { applyBinary } from "../ir/operators.ts";
import type { Expr } from "../ir/expr.ts";
import { threadHead } from "../ir/thread-text.ts";
import type { Stmt, ThreadProgram } from "../ir/thread.ts";
import type { ReduceFn } from "../ir/tile.ts";
import { compileExpr } from "./eval.ts";
import type { Binder, Cell, Compiled } from "./eval.ts";
import { find, missing } from "./thread-machine.ts";
import type { Machine, Run } from "./thread-machine.ts";
import { globalMemory, registers, sharedMemory } from "./thread-memory.ts";
import type { Finding, Moment, Registers, Report, SharedMemory } from "./thread-memory.ts";
import { compileUnit, compileUnitWait } from "./thread-units.ts";
import type { HostArray } from "./tile.ts";

export type { Finding } from "./thread-memory.ts";

/**
 * Runs a program and defines what Thread IR means: all lanes of a block go through its statements in lock-step, blocks one after the other, and
 * values are rounded where they are kept. Returns what is wrong with the program: lanes that touch one element without a barrier between (one of
 * them writing), blocks that do so at all, reads of memory that nothing wrote, accesses out of range, barriers that not all lanes reach.
 * @param blocks which ones of the grid are run; all unless given
 */
export function emulateThread(
  p: ThreadProgram,
  caps: Caps,
  buffers: Readonly<Record<string, HostArray>>,
  symbols: Readonly<Record<string, number>> = {},
  blocks: readonly Place[] = blocksOf(p.grid.map((g) => evaluateInt(g, symbols)) as [number, number, number]),
): readonly Finding[] {
  const cells = new Map<string, Cell>();
  const cell = (name: string): Cell => {
    const c = cells.get(name) ?? { value: NaN };
    cells.set(name, c);
    return c;
  };
  for (const s of p.symbols) {
    const value = symbols[s.name];
    if (value === undefined) throw new Error(`thread program ${p.name}: the symbol ${s.name} has no value`);
    if (value < s.min || value > s.max) throw new Error(`thread program ${p.name}: ${s.name} = ${value} is outside [${s.min}, ${s.max}]`);
    cell(s.name).value = value;
  }
  const now: Moment = { statement: 0, lane: 0, epoch: 1, block: 0 };
  const statements: string[] = [];
  const describe = (statement: number): string => statements[statement] ?? "the start";
  const findings = new Map<string, Finding>();
  const report: Report = (kind, address, lanes, message) => {
    const key = `${kind} ${now.statement} ${address.replace(/[[.].*/, "")}`;
    const hit = findings.get(key);
    findings.set(key, hit ? { ...hit, times: hit.times + 1 } : { kind, at: describe(now.statement), address, lanes, message, times: 1 });
  };
  const shared = p.shared.map((d) => sharedMemory(d, now, report, describe));
  const globals = p.params.map((q) => {
    const data = buffers[q.name];
    if (!data) throw new Error(`thread program ${p.name}: there is no buffer for ${q.name}`);
    return globalMemory(q, data, now, report, describe);
  });
  const regs = p.regs.map((d) => registers(d, p.threads, report));
  const machine: Machine = {
    p,
    caps,
    now,
    statements,
    report,
    cell,
    tid: cell("tid"),
    memory: new Map([...shared, ...globals].map((m) => [m.name, m])),
    regs: new Map(regs.map((r) => [r.decl.name, r])),
    active: new Uint8Array(p.threads),
    copies: [[]],
    products: [],
  };
  const run = compileBody(p.body, "", machine);
  const everyone = Array.from({ length: p.threads }, (_, i) => i);
  for (const [x, y, z] of blocks) {
    [cell("bx").value, cell("by").value, cell("bz").value] = [x, y, z];
    now.block++;
    now.epoch++;
    startBlock(shared, regs, machine);
    run(everyone);
    if (machine.copies.some((group) => group.length > 0)) report("race", "", [], "the block ends with asynchronous copies under way");
    if (machine.products.length > 0) report("race", "", [], "the block ends with asynchronous products under way");
  }
  return [...findings.values()];
}

/** A block of the grid. */
type Place = readonly [x: number, y: number, z: number];

function blocksOf([gx, gy, gz]: readonly [number, number, number]): readonly Place[] {
  const places: Place[] = [];
  for (let z = 0; z < gz; z++) for (let y = 0; y < gy; y++) for (let x = 0; x < gx; x++) places.push([x, y, z]);
  return places;
}

/** One line a finding, for test failures and people. */
export const printFinding = (f: Finding): string =>
  `${f.kind}${f.address === "" ? "" : ` at ${f.address}`}, thread ${f.lanes.join(", ")}: ${f.message}${f.times > 1 ? ` (${f.times} times)` : ""}\n    in: ${f.at}`;

function startBlock(shared: readonly SharedMemory[], regs: readonly Registers[], m: Machine): void {
  for (const s of shared) s.clear();
  for (const r of regs) r.clear();
  m.copies = [[]];
  m.products = [];
}

function compileBody(body: readonly Stmt[], path: string, m: Machine): Run {
  const runs = body.map((s, i): Run => {
    const at = path === "" ? `${i}` : `${path}.${i}`;
    const text = threadHead(s);
    const statement = m.statements.push(`${at}: ${text.length > 240 ? `${text.slice(0, 240)} ...` : text}`) - 1;
    const run = compileStmt(s, at, statement, m);
    return (lanes) => {
      m.now.statement = statement;
      run(lanes);
    };
  });
  return (lanes) => {
    for (const run of runs) run(lanes);
  };
}

const hasShuffle = (e: Expr): boolean => some(e, (x) => x.op === "shuffle");

function compileStmt(s: Stmt, path: string, statement: number, m: Machine): Run {
  const compile = (e: Expr): Compiled => compileExpr(e, binderOf(m));
  const guarded = (e: Expr | null): Compiled => (e ? compile(e) : () => 1);
  const each = (lanes: readonly number[], f: (lane: number) => void): void => {
    for (const lane of lanes) {
      m.tid.value = lane;
      m.now.lane = lane;
      f(lane);
    }
  };
  switch (s.op) {
    case "assign":
      return compileAssign(s, m, compile, each);
    case "store": {
      const memory = find(m.memory, s.buffer);
      const index = compile(s.index),
        value = compile(s.value),
        guard = guarded(s.guard);
      return (lanes) => {
        mark(m, lanes);
        each(lanes, () => {
          if (guard()) memory.set(index(), value());
        });
      };
    }
    case "loadVec":
    case "storeVec": {
      const reg = find(m.regs, s.reg),
        memory = find(m.memory, s.buffer);
      const index = compile(s.index),
        at = compile(s.at),
        guard = guarded(s.guard);
      return (lanes) => {
        each(lanes, (lane) => {
          const ok = guard() !== 0,
            first = index(),
            from = ok ? at() : 0;
          if (from % s.width !== 0)
            m.report(
              "alignment",
              `${s.buffer}[${from}]`,
              [lane],
              `${s.width * BYTES[s.dtype]} bytes from an address that is not a multiple`,
            );
          for (let j = 0; j < s.width; j++) {
            if (s.op === "loadVec") reg.set(lane, first + j, ok ? memory.get(from + j) : 0);
            else if (ok) memory.set(from + j, reg.get(lane, first + j));
          }
        });
      };
    }
    case "barrier":
      return (lanes) => {
        if (lanes.length !== m.p.threads)
          m.report("divergence", "", missing(lanes, m.p.threads), "these threads do not reach a barrier that others wait at");
        m.now.epoch++;
      };
    case "asyncCopy":
      return compileAsyncCopy(s, m, compile, each);
    case "asyncWait":
      return () => {
        m.copies.push([]);
        // the newest group is the one that just opened
        while (m.copies.length - 1 > s.pending)
          for (const c of m.copies.shift()!) {
            m.now.lane = c.lane;
            c.values.forEach((x, j) => {
              c.dst.fly(c.at + j, false);
              c.dst.set(c.at + j, x);
            });
          }
      };
    case "unit":
      return compileUnit(s, m, compile);
    case "unitWait":
      return compileUnitWait(s, m);
    case "laneReduce": {
      const reg = find(m.regs, s.reg);
      const index = compile(s.index),
        value = compile(s.value);
      return (lanes) => {
        mark(m, lanes);
        let values = new Map<number, number>();
        each(lanes, (lane) => values.set(lane, value()));
        for (const mask of s.masks) {
          const next = new Map<number, number>();
          for (const [lane, x] of values) {
            const other = values.get(lane ^ mask);
            if (other === undefined) m.report("divergence", "", [lane, lane ^ mask], "a lane reduction over a lane that is not here");
            next.set(lane, other === undefined ? x : round32(applyBinary(COMBINE[s.fn], x, other), reg.decl.dtype));
          }
          values = next;
        }
        writeAll(reg, lanes, index, (lane) => values.get(lane)!, m, each);
      };
    }
    case "for": {
      const v = m.cell(s.var.name);
      const count = compile(s.count);
      const body = compileBody(s.body, path, m);
      return (lanes) => {
        let n = 0;
        each(lanes, (lane) => {
          const c = count();
          if (lane !== lanes[0] && c !== n) m.report("divergence", "", [lanes[0]!, lane], `a loop of ${n} turns and of ${c}`);
          if (lane === lanes[0]) n = c;
        });
        for (let i = 0; i < n; i++) {
          v.value = i;
          body(lanes);
        }
        m.now.statement = statement;
      };
    }
    case "if": {
      const cond = compile(s.cond);
      const then = compileBody(s.body, path, m),
        otherwise = compileBody(s.otherwise, `${path}.else`, m);
      return (lanes) => {
        mark(m, lanes);
        const yes: number[] = [],
          no: number[] = [];
        each(lanes, (lane) => (cond() ? yes : no).push(lane));
        if (yes.length > 0) then(yes);
        if (no.length > 0 && s.otherwise.length > 0) otherwise(no);
      };
    }
  }
}

const COMBINE = { sum: "add", max: "max", min: "min" } as const satisfies Record<ReduceFn, string>;
const round32 = (x: number, dtype: string): number => (dtype === "f32" ? Math.fround(x) : x);
/** Notes who runs the statement, for shuffles. */
function mark(m: Machine, lanes: readonly number[]): void {
  m.active.fill(0);
  for (const lane of lanes) m.active[lane] = 1;
}

function binderOf(m: Machine): Binder {
  return {
    variable: (v) => m.cell(v.name),
    load: (buffer) => {
      const memory = find(m.memory, buffer);
      return (i) => memory.get(i);
    },
    reg: (name) => {
      const reg = find(m.regs, name);
      return (i) => reg.get(m.tid.value, i);
    },
    shuffle: (a, mask) => () => {
      const lane = m.tid.value;
      const other = lane ^ mask;
      if (!m.active[other]) m.report("divergence", "", [lane, other], "a shuffle from a lane that is not here");
      m.tid.value = other;
      const x = a();
      m.tid.value = lane;
      return x;
    },
  };
}

type Each = (lanes: readonly number[], f: (lane: number) => void) => void;

function compileAssign(s: Extract<Stmt, { op: "assign" }>, m: Machine, compile: (e: Expr) => Compiled, each: Each): Run {
  const reg = find(m.regs, s.reg);
  const index = compile(s.index),
    value = compile(s.value);
  if (!hasShuffle(s.value) && !reg.decl.uniform)
    return (lanes) => {
      each(lanes, (lane) => {
        reg.set(lane, index(), value());
      });
    };
  const values = new Float64Array(m.p.threads);
  return (lanes) => {
    mark(m, lanes);
    each(lanes, (lane) => (values[lane] = value()));
    writeAll(reg, lanes, index, (lane) => values[lane]!, m, each);
  };
}

/** Writes one register in all lanes; where the array is uniform, all must agree. */
function writeAll(
  reg: Registers,
  lanes: readonly number[],
  index: Compiled,
  value: (lane: number) => number,
  m: Machine,
  each: Each,
): void {
  if (reg.decl.uniform) {
    const first = lanes[0]!;
    const other = lanes.find((lane) => value(lane) !== value(first) && !Object.is(value(lane), value(first)));
    if (other !== undefined)
      m.report("divergence", reg.decl.name, [first, other], `a uniform register gets ${value(first)} and ${value(other)}`);
    if (lanes.length !== m.p.threads)
      m.report("divergence", reg.decl.name, missing(lanes, m.p.threads), "these threads miss a write to a uniform register");
  }
  each(lanes, (lane) => {
    reg.set(lane, index(), value(lane));
  });
}

function compileAsyncCopy(s: Extract<Stmt, { op: "asyncCopy" }>, m: Machine, compile: (e: Expr) => Compiled, each: Each): Run {
  const dst = find(m.memory, s.dst),
    src = find(m.memory, s.src);
  const dstAt = compile(s.dstAt),
    srcAt = compile(s.srcAt),
    guard = s.guard ? compile(s.guard) : () => 1;
  return (lanes) => {
    each(lanes, (lane) => {
      const ok = guard() !== 0,
        to = dstAt(),
        from = ok ? srcAt() : 0;
      if (to % s.width !== 0 || from % s.width !== 0)
        m.report("alignment", `${s.dst}[${to}]`, [lane], `copies ${s.width} elements between addresses that are not multiples`);
      for (let j = 0; j < s.width; j++) dst.fly(to + j, true);
      const values = Array.from({ length: s.width }, (_, j) => (ok ? src.get(from + j) : 0));
      m.copies.at(-1)!.push({ lane, dst, at: to, values });
    });
  };
}

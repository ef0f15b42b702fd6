import type { Caps, Source } from "../../compiler/backend.ts";
import type { ThreadProgram } from "../../compiler/ir/thread.ts";
import { intVar } from "../../compiler/ir/expr.ts";
import { entryName } from "../entry.ts";
import { Arith } from "./arith.ts";
import type { Level } from "./caps.ts";
import { levelOf } from "./caps.ts";
import type { Frame } from "./frame.ts";
import { layOut } from "./frame.ts";
import type { Lanes } from "./linear.ts";
import { analyse } from "./linear.ts";
import { memoryType } from "./micro-kernel.ts";
import { FunctionText, ModuleText } from "./module-text.ts";
import { printBody } from "./statements.ts";
import type { Place } from "./values.ts";
import { Values } from "./values.ts";

/**
 * Thread IR to LLVM IR. A block is one warp whose lanes are the elements of vectors: what differs between lanes becomes a vector, what does not a
 * scalar; consecutive addresses become vector loads; conditions that differ become masks.
 *
 * Every kernel has the signature
 *   void entry(i8** args, i32* symbols, i32 bx, i32 by, i32 bz, i8* scratch)
 * `args`: one pointer a parameter, in order. `symbols`: the values of program.symbols, in order. `scratch`: `sharedBytes` bytes that belong to the
 * calling worker, aligned to 64. Different parameters of one launch must not overlap in memory (they are `noalias`).
 */
export function print(program: ThreadProgram, caps: Caps): Source {
  const level = levelOf(caps);
  // The entry's name says what is in it, so that equal kernels have equal names and different ones never collide in one binary.
  const lanes = analyse(program);
  const frame = layOut(program, lanes, level);
  const anonymous = moduleText(program, level, lanes, frame);
  const entry = entryName(program.name, anonymous);
  return { language: "llvm", text: anonymous.replaceAll(`@${ENTRY}`, `@${entry}`), entry, sharedBytes: frame.scratchBytes };
}

const ENTRY = "ENTRY";

function moduleText(program: ThreadProgram, level: Level, lanes: Lanes, frame: Frame): string {
  const module = new ModuleText(level);
  const f = new FunctionText(module);
  const zeros = `getelementptr inbounds ([64 x i8], [64 x i8]* @zeros, i64 0, i64 0)`;

  const places = new Map<string, Place>(
    program.params.map(({ name, dtype, access }) => [name, { pointer: `%p_${name}`, dtype, constant: access === "read" }]),
  );
  placeArrays(frame, f, places);
  const values = new Values(f, new Arith(f, program.threads, level), new Arith(f, 0, level), lanes, frame, places, zeros);
  values.setTid(intVar("tid", 0, program.threads - 1));
  for (const name of ["bx", "by", "bz"]) values.bind(name, `%${name}`);
  for (const { name } of program.symbols) values.bind(name, `%s_${name}`);
  printBody(program.body, { program, level, module, f, values, frame });
  f.effect("ret void");

  const parameters = [
    ...program.params.map(({ name, dtype, access }) => `${memoryType(dtype)}* noalias ${access === "read" ? "readonly " : ""}%p_${name}`),
    ...program.symbols.map(({ name }) => `i64 %s_${name}`),
    ...["bx", "by", "bz"].map((name) => `i64 %${name}`),
    "i8* noalias %scratch",
  ];
  return [
    `@zeros = internal constant [64 x i8] zeroinitializer, align 64`,
    `define internal void @block(${parameters.join(", ")}) #0 noinline {\nentry:\n${f.toString()}\n}`,
    entryText(program, module),
    module.toString(),
  ].join("\n\n");
}

/** Names the shared arrays and register arrays of a block. */
function placeArrays(frame: Frame, f: FunctionText, places: Map<string, Place>): void {
  for (const [name, { dtype, elements, offset }] of frame.arrays) {
    const type = memoryType(dtype);
    const pointer =
      offset < 0
        ? f.ins(`bitcast [${elements} x ${type}]* ${f.ins(`alloca [${elements} x ${type}], align 64`)} to ${type}*`)
        : f.ins(`bitcast i8* ${f.ins(`getelementptr inbounds i8, i8* %scratch, i64 ${offset}`)} to ${type}*`);
    places.set(name, { pointer, dtype, constant: false });
  }
}

/** The exported function: it takes the arguments apart. The block itself is a function of its own so that its pointers can be `noalias`. */
function entryText(program: ThreadProgram, module: ModuleText): string {
  const f = new FunctionText(module);
  const pointers = program.params.map(({ dtype }, i) => {
    const raw = f.ins(`load i8*, i8** ${f.ins(`getelementptr inbounds i8*, i8** %args, i64 ${i}`)}, align 8`);
    const type = memoryType(dtype);
    return `${type}* ${type === "i8" ? raw : f.ins(`bitcast i8* ${raw} to ${type}*`)}`;
  });
  const symbols = program.symbols.map(
    (_, i) =>
      `i64 ${f.ins(`sext i32 ${f.ins(`load i32, i32* ${f.ins(`getelementptr inbounds i32, i32* %symbols, i64 ${i}`)}, align 4`)} to i64`)}`,
  );
  const blocks = ["bx", "by", "bz"].map((name) => `i64 ${f.ins(`sext i32 %${name} to i64`)}`);
  f.effect(`call void @block(${[...pointers, ...symbols, ...blocks, "i8* %scratch"].join(", ")})`);
  f.effect("ret void");
  return `define void @${ENTRY}(i8** %args, i32* %symbols, i32 %bx, i32 %by, i32 %bz, i8* %scratch) #0 {\nentry:\n${f.toString()}\n}`;
}

import type { Sink } from "./arith.ts";
import type { Level } from "./caps.ts";

/**
 * One module of IR text under construction. Pointers are spelled with their types, which LLVM 14 needs and later versions accept, so that one text
 * serves them all.
 */
export class ModuleText {
  readonly level: Level;
  private readonly declarations = new Set<string>();
  private readonly functions = new Map<string, string>();

  constructor(level: Level) {
    this.level = level;
  }

  declare(text: string): void {
    this.declarations.add(text);
  }

  /** Adds an internal function once; `name` must say all that `text` depends on. */
  helper(name: string, text: () => string): string {
    if (!this.functions.has(name)) {
      this.functions.set(name, ""); // holds its place while helpers of the helper are made
      this.functions.set(name, text());
    }
    return name;
  }

  toString(): string {
    const width = this.level.lanes * 32;
    // Without these two LLVM splits 512-bit vectors for processors that once lowered their clock for them.
    const attributes = `attributes #0 = { nounwind "prefer-vector-width"="${width}" "min-legal-vector-width"="${width}" }`;
    return [...this.functions.values(), ...this.declarations, attributes, ""].join("\n");
  }
}

/** The body of one function under construction: instructions, blocks, and places kept open for instructions that are hoisted later. */
export class FunctionText implements Sink {
  private readonly module: ModuleText;
  private readonly chunks: string[][] = [[]];
  private current: string[];
  private counter = 0;
  /** Label of the block that instructions go to. */
  block = "entry";

  constructor(module: ModuleText) {
    this.module = module;
    this.current = this.chunks[0]!;
  }

  declare(text: string): void {
    this.module.declare(text);
  }

  ins(code: string): string {
    const name = `%t${this.counter++}`;
    this.current.push(`  ${name} = ${code}`);
    return name;
  }

  /** An instruction without a result. */
  effect(code: string): void {
    this.current.push(`  ${code}`);
  }

  label(): string {
    return `L${this.counter++}`;
  }

  /** Starts a block. */
  start(label: string): void {
    this.current.push(`${label}:`);
    this.block = label;
  }

  jump(label: string): void {
    this.effect(`br label %${label}`);
  }

  branch(condition: string, yes: string, no: string): void {
    this.effect(`br i1 ${condition}, label %${yes}, label %${no}`);
  }

  /** Keeps a place open here, in the current block, for instructions that are added later through `into`. */
  openPlace(): string[] {
    const place: string[] = [];
    this.current = [];
    this.chunks.push(place, this.current);
    return place;
  }

  /** Runs `f` with instructions going to an open place. */
  into<T>(place: string[], f: () => T): T {
    const saved = this.current;
    this.current = place;
    const result = f();
    this.current = saved;
    return result;
  }

  /**
   * `body` with the counter = 0, step, ... while below `count`. A test before the first round is printed unless `atLeastOnce`, and the loop tests
   * at its end, the form that LLVM's loop passes want.
   */
  loop(count: string, step: number, atLeastOnce: boolean, body: (counter: string) => void): void {
    const [head, exit] = [this.label(), this.label()];
    if (atLeastOnce) this.jump(head);
    else this.branch(this.ins(`icmp sgt i64 ${count}, 0`), head, exit);
    const before = this.block;
    this.start(head);
    const phi = this.openPlace();
    const counter = `%i${this.counter++}`;
    body(counter);
    const next = this.ins(`add nuw nsw i64 ${counter}, ${step}`);
    this.branch(this.ins(`icmp slt i64 ${next}, ${count}`), head, exit);
    phi.push(`  ${counter} = phi i64 [ 0, %${before} ], [ ${next}, %${this.block} ]`);
    this.start(exit);
  }

  /** `yes` where the condition holds. */
  when(condition: string, yes: () => void, no: (() => void) | null = null): void {
    const [then, end] = [this.label(), this.label()];
    const otherwise = no ? this.label() : end;
    this.branch(condition, then, otherwise);
    this.start(then);
    yes();
    this.jump(end);
    if (no) {
      this.start(otherwise);
      no();
      this.jump(end);
    }
    this.start(end);
  }

  toString(): string {
    return this.chunks
      .map((c) => c.join("\n"))
      .filter((s) => s !== "")
      .join("\n");
  }
}

import type { TemplateInterpreter, TemplateNode } from "./jinja-library.ts";

/**
 * Makes loop controls what they are in Jinja. @huggingface/jinja 0.5.11 drops what a round of a loop has written before `break` or `continue`, and
 * takes a loop that ends in its first round for an empty one, whose `else` it renders.
 */
export function keepLoopText(interpreter: TemplateInterpreter): void {
  const evaluate = interpreter.evaluate.bind(interpreter);
  const evaluateBlock = interpreter.evaluateBlock.bind(interpreter);
  const loops: { readonly node: TemplateNode; broken: boolean; text: string }[] = [];
  /** Of a control on its way out to its loop: which one it is, and what was written before it. */
  const controls = new WeakMap<object, { readonly type: string; text: string }>();
  const controlOf = (error: unknown): { readonly type: string; text: string } | undefined =>
    typeof error === "object" && error !== null ? controls.get(error) : undefined;

  interpreter.evaluate = (node, scope) => {
    if (node?.type === "Break" || node?.type === "Continue") {
      try {
        return evaluate(node, scope);
      } catch (control) {
        controls.set(control as Error, { type: node.type, text: "" });
        throw control;
      }
    }
    if (node?.type !== "For") return evaluate(node, scope);
    const loop = { node, broken: false, text: "" };
    loops.push(loop);
    try {
      const result = evaluate(node, scope);
      return loop.broken ? Object.assign(result, { value: String(result.value) + loop.text }) : result;
    } finally {
      loops.pop();
    }
  };

  interpreter.evaluateBlock = (statements, scope) => {
    const loop = loops.at(-1);
    const text = (value: string): ReturnType<typeof evaluateBlock> => Object.assign(evaluateBlock([], scope), { value });
    if (loop?.broken === true && statements === loop.node["defaultBlock"]) return text("");
    let written = "";
    for (const statement of statements) {
      try {
        const value = interpreter.evaluate(statement, scope);
        if (value.type !== "NullValue" && value.type !== "UndefinedValue") written += value.toString();
      } catch (error) {
        const control = controlOf(error);
        if (control === undefined) throw error;
        control.text = written + control.text;
        if (statements !== loop?.node["body"]) throw error;
        if (control.type === "Continue") return text(control.text);
        loop.broken = true;
        loop.text = control.text;
        throw error;
      }
    }
    return text(written);
  };
}

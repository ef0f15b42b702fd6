import { createInterpreter } from "../../../models/auto/interpret.ts";
import { planModel, traceModel } from "../../../models/auto/plan.ts";
import { createModelSession } from "../../../models/auto/sessions.ts";
import { openModelSource } from "../../../models/auto/source.ts";
import type { Session } from "../../../runtime/session.ts";
import { openArtifact } from "../../../runtime/steps.ts";
import type { Setting } from "./running.ts";
import { compileFor } from "./running.ts";

/** Prompt longer than a prefill call, so that states are carried over too. */
const PROMPT = 24;
const CHUNK = 16;
const TOKENS = 16;
/** Of the largest logit: sums of another order in f32 differ by less, and so do activations that are rounded to f16 for a product. */
const TOLERANCE = { f32: 1e-4, f16: 2e-2 };

/**
 * Speed is nothing without the right result, and no other test runs on the GPU that is measured: a small model from a folder, prompt and answer, against
 * the interpreter.
 * @param dtype of its weights
 * @returns the largest difference of a logit, of the largest logit
 * @throws Error when a token differs, or a logit by more than rounding
 */
export async function checkModel({ device, caps }: Setting, folder: string, dtype: keyof typeof TOLERANCE): Promise<number> {
  const source = openModelSource(folder);
  try {
    const plan = planModel(source.config, source.dtype, { dtype, maxLength: PROMPT + TOKENS, prefillChunk: CHUNK });
    const programs = await traceModel(source.config, plan);
    const executor = await openArtifact(device, await compileFor(caps, "check", programs), source.weights, { spare: () => true });
    const [here, reference] = [executor, await createInterpreter(programs, source.weights)].map((e) =>
      createModelSession(e, source.config, plan.rotary),
    ) as [Session, Session];
    const ids = Int32Array.from({ length: PROMPT }, (_, i) => (i * 7919 + 13) % here.vocabSize);
    await Promise.all([here.prefill(ids), reference.prefill(ids)]);
    let worst = await difference(here, reference);
    for (let i = 0; i < TOKENS - 1; i += 1) {
      await Promise.all([here.decode(reference.next.slice(0, 1)), reference.decode(reference.next.slice(0, 1))]);
      worst = Math.max(worst, await difference(here, reference));
    }
    executor.close();
    if (!(worst < TOLERANCE[dtype]))
      throw new Error(`${folder}: logits differ from the interpreter's by ${worst.toExponential(1)} of the largest`);
    return worst;
  } finally {
    source.checkpoint.close();
  }
}

async function difference(here: Session, reference: Session): Promise<number> {
  const [a, b] = [await here.logits(0), await reference.logits(0)];
  const largest = b.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  // Not `Math.max` of the differences: NaN must not get lost.
  let worst = 0;
  for (let i = 0; i < b.length; i += 1) if (!(Math.abs(a[i]! - b[i]!) <= worst)) worst = Math.abs(a[i]! - b[i]!);
  if (here.next[0] !== reference.next[0]) throw new Error(`token ${here.next[0]}, the interpreter's is ${reference.next[0]}`);
  return worst / largest;
}

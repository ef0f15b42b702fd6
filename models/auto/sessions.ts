import type { Executor } from "../../runtime/executor.ts";
import { createSession } from "../../runtime/model-session.ts";
import type { Session, SessionOptions } from "../../runtime/session.ts";
import type { BambaConfig } from "../bamba/config.ts";
import { ropeRows } from "../bamba/rope.ts";
import { positionAxes, ringStates } from "./plan.ts";
import type { ModelPlan } from "./plan.ts";

/** A session on a Bamba model's programs, with what the session cannot know of the model: its states' axes and its rotary embedding. */
export function createModelSession(
  executor: Executor,
  config: BambaConfig,
  rotary: ModelPlan["rotary"],
  options: Pick<SessionOptions, "startAt"> = {},
): Session {
  const cos = executor.input("rope_cos");
  const sin = executor.input("rope_sin");
  const common = { ...options, positionAxes: positionAxes(config), ringStates: ringStates(config), vocabSize: config.vocabSize };
  // Tables are inputs only where they change from call to call.
  if (!(cos instanceof Float32Array && sin instanceof Float32Array)) return createSession(executor, common);
  const tables = { cos, sin };
  const pairs = config.rotaryDim / 2;
  const write = ropeRows(config, { frequencies: rotary });
  return createSession(executor, {
    ...common,
    onPositions: (positions, count, length, past) => {
      write(tables, positions, count, length, past);
      let first = positions[0]!;
      let last = first;
      for (let i = 1; i < count; i += 1) {
        first = Math.min(first, positions[i]!);
        last = Math.max(last, positions[i]!);
      }
      executor.wrote("rope_cos", first * pairs, (last - first + 1) * pairs);
      executor.wrote("rope_sin", first * pairs, (last - first + 1) * pairs);
    },
  });
}

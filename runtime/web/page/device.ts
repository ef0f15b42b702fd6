import type { ModelFacts } from "../protocol.ts";
import { formatLimit, limitName } from "./format.ts";

/** Limits that decide how fast a model may be, and how large. */
const SHOWN = [
  "maxStorageBufferBindingSize",
  "maxBufferSize",
  "maxStorageBuffersPerShaderStage",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupStorageSize",
  "maxComputeWorkgroupsPerDimension",
];

export interface Limit {
  readonly name: string;
  readonly offered: string;
  /** null: the model asks for no more than WebGPU's default. */
  readonly needed: string | null;
}

/** The limits that matter, and all that the model asks for, as people read them. */
export function limitsOf({ adapter, requires }: Pick<ModelFacts, "adapter" | "requires">): readonly Limit[] {
  const names = [...new Set([...SHOWN, ...Object.keys(requires.limits)])];
  return names.flatMap((name): Limit[] => {
    const offered = adapter.limits[name];
    if (offered === undefined) return [];
    const needed = requires.limits[name];
    return [
      { name: limitName(name), offered: formatLimit(name, offered), needed: needed === undefined ? null : formatLimit(name, needed) },
    ];
  });
}

/** "32", "16 to 32"; null where the adapter has no subgroups or does not tell. */
export function lanesOf({ subgroupMinSize: least, subgroupMaxSize: most }: ModelFacts["adapter"]): string | null {
  if (most === 0) return null;
  return least === most ? String(most) : `${least} to ${most}`;
}

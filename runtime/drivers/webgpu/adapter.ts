import type { Requirements } from "../../../compiler/artifact.ts";
import { UserError } from "../../errors.ts";

/** What an adapter says about itself, as plain data: what to compile for, and what a page shows. */
export interface AdapterFacts {
  /** For people: "NVIDIA H200", or vendor and architecture where the browser keeps the rest to itself. */
  readonly name: string;
  readonly vendor: string;
  readonly architecture: string;
  readonly device: string;
  readonly description: string;
  readonly features: readonly string[];
  readonly limits: Readonly<Record<string, number>>;
  readonly subgroupMinSize: number;
  readonly subgroupMaxSize: number;
}

/** @throws UserError when there is no adapter. @param hint what to do then */
export async function requestAdapter(gpu: GPU, hint: string): Promise<GPUAdapter> {
  let cause: unknown;
  const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" }).catch((error: unknown) => {
    cause = error;
    return null;
  });
  if (adapter === null) throw new UserError("WebGPU found no adapter: no GPU that it can use", { hint, cause });
  return adapter;
}

export function factsOf(adapter: GPUAdapter): AdapterFacts {
  const { vendor, architecture, device, description, subgroupMinSize = 0, subgroupMaxSize = 0 } = adapter.info;
  const limits: Record<string, number> = {};
  // Limits are getters of a prototype, which for-in finds and Object.keys does not.
  for (const name in adapter.limits) {
    const value: unknown = adapter.limits[name as keyof GPUSupportedLimits];
    if (typeof value === "number") limits[name] = value;
  }
  const name = description || [vendor, architecture || device].filter((part) => part !== "").join(" ") || "an unnamed GPU";
  return {
    name,
    vendor,
    architecture,
    device,
    description,
    features: [...adapter.features].sort(),
    limits,
    subgroupMinSize,
    subgroupMaxSize,
  };
}

/** What an adapter lacks of what is required, one sentence each with the numbers; empty where it has all. */
export function shortfalls(facts: AdapterFacts, { features, limits, subgroup }: Requirements): readonly string[] {
  const { subgroupMinSize: least, subgroupMaxSize: most } = facts;
  const missing = features.filter((feature) => !facts.features.includes(feature)).map((feature) => `no feature ${feature}`);
  for (const [name, wanted] of Object.entries(limits)) {
    const offered = facts.limits[name];
    if (offered === undefined) missing.push(`no limit ${name} (wanted ${wanted})`);
    // An alignment is the better the smaller it is.
    else if (name.startsWith("min") ? offered > wanted : offered < wanted) missing.push(`${name} ${offered} (wanted ${wanted})`);
  }
  // Kernels rely on every subgroup having this size, and a device with a choice of sizes makes it itself.
  if (subgroup !== null && (subgroup !== least || subgroup !== most))
    missing.push(most === 0 ? `no subgroups (wanted ${subgroup} lanes)` : `subgroups of ${least} to ${most} lanes (wanted ${subgroup})`);
  return missing;
}

import * as z from "zod";
import { readArchive } from "../../../ffi/archive.ts";
import { UserError } from "../../errors.ts";

/** What backends/cuda/toolchain.ts writes: machine code, and which kernels are in it. */
export interface KernelsFile {
  readonly computeCapability: number;
  readonly kernels: readonly { readonly entry: string; readonly threads: number; readonly symbols: number; readonly member: string }[];
  /** Cubins by their member's name. */
  readonly programs: ReadonlyMap<string, Uint8Array>;
}

const schema = z.object({
  version: z.literal(1),
  computeCapability: z.int().min(50).max(999),
  kernels: z
    .array(
      z.object({
        entry: z.string().regex(/^[A-Za-z_][A-Za-z0-9_]{0,200}$/),
        threads: z.int().min(1).max(1024),
        symbols: z.int().min(0).max(64),
        member: z.string().max(300),
      }),
    )
    .max(100_000),
});

/** @throws UserError saying what is wrong with it. */
export function parseKernels(binary: Uint8Array): KernelsFile {
  try {
    const [index, ...programs] = readArchive(binary);
    if (index?.name !== "index.json") throw new Error("its first member is not index.json");
    const { computeCapability, kernels } = schema.parse(JSON.parse(new TextDecoder().decode(index.data)));
    const byName = new Map(programs.map(({ name, data }) => [name, data]));
    for (const { entry, member } of kernels) if (!byName.has(member)) throw new Error(`${entry} is in ${member}, which is not there`);
    return { computeCapability, kernels, programs: byName };
  } catch (cause) {
    throw new UserError(`kernels.bin: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
}

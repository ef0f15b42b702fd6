import * as z from "zod";
import { UserError } from "../../errors.ts";

/** What backends/wgsl/toolchain.ts writes: sources, and how their parameters are bound. */
export interface KernelsFile {
  readonly format: "culm-wgsl";
  readonly version: 1;
  /** Most bytes of a binding; a parameter that may be larger has several. */
  readonly windowBytes: number;
  readonly kernels: readonly WgslKernel[];
}

export interface WgslKernel {
  readonly entry: string;
  /** A whole module with one compute entry. */
  readonly source: string;
  readonly threads: number;
  readonly params: readonly { readonly access: "read" | "readwrite"; readonly windows: number }[];
  /** Run-time values, in one uniform buffer behind the parameters; none: no such binding. */
  readonly symbols: number;
}

const count = (least: number, most: number): z.ZodInt => z.int().min(least).max(most);

const schema = z.object({
  format: z.literal("culm-wgsl"),
  version: z.literal(1),
  windowBytes: count(16, 2 ** 32).multipleOf(16),
  kernels: z
    .array(
      z.object({
        entry: z.string().regex(/^[A-Za-z_][A-Za-z0-9_]{0,200}$/),
        source: z.string().max(4 << 20),
        threads: count(1, 4096),
        params: z.array(z.object({ access: z.enum(["read", "readwrite"]), windows: count(1, 1000) })).max(1000),
        symbols: count(0, 64),
      }),
    )
    .max(100_000),
});

/**
 * Reads a kernels.bin. It comes from a stranger; the sources in it are for WebGPU's own compiler, which trusts nothing either.
 * @throws UserError saying what is wrong with it.
 */
export function parseKernels(binary: Uint8Array): KernelsFile {
  const fail = (why: string, cause?: unknown): never => {
    throw new UserError(`kernels.bin: ${why}`, {
      cause,
      hint: "these are not whole kernels for WebGPU: fetch the artifact again, or compile it with --target wgsl",
    });
  };
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(binary));
  } catch (cause) {
    return fail(`its ${binary.length} bytes are not valid JSON`, cause);
  }
  const result = schema.safeParse(json);
  if (!result.success) {
    const issue = result.error.issues[0]!;
    return fail(`${issue.path.map(String).join(".") || "file"}: ${issue.message}`, result.error);
  }
  const entries = new Set(result.data.kernels.map(({ entry }) => entry));
  if (entries.size < result.data.kernels.length) return fail("an entry is given twice");
  return result.data;
}

import { createHash } from "node:crypto";
import { mkdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { CompileRequest } from "../../compiler/compile.ts";
import type { Backend, Caps } from "../../compiler/backend.ts";
import { isUserError, UserError } from "../../runtime/errors.ts";
import type { Artifact } from "../../runtime/node/artifact.ts";
import { readArtifact, writeArtifact } from "../../runtime/node/artifact.ts";
import { cacheFolder, codeFingerprint, touch, trimCache } from "../../runtime/node/cache.ts";
import type { BambaConfig } from "../bamba/config.ts";
import type { ModelPlan } from "./plan.ts";
import { positionAxes, traceModel } from "./plan.ts";

export interface CompileProgress {
  readonly done: number;
  readonly total: number;
  readonly what: string;
}

export interface CompileOptions {
  /** Folder of compiled models; null compiles anew and keeps nothing. The user's cache folder unless given. */
  readonly cache?: string | null;
  readonly onProgress?: (progress: CompileProgress) => void;
  /** Called with each kernel that is compiled, none of what comes from the cache (compiler/compile.ts). */
  readonly onKernel?: NonNullable<CompileRequest["onKernel"]>;
}

export interface CompiledModel {
  readonly artifact: Artifact;
  readonly cached: boolean;
  /** Milliseconds that it took to get, from the cache or the compiler. */
  readonly time: number;
  readonly caps: Caps;
}

/** A model of this size has an artifact of a few megabytes; more than this many are not in use. */
const keptArtifacts = 32;

/** Sources whose change may change what comes out of the compiler. */
const compilerFolders = ["../../compiler", "../../backends", "../../dsl", "../bamba", "."].map((folder) =>
  fileURLToPath(new URL(folder, import.meta.url)),
);
let fingerprint: string | undefined;

/**
 * Compiles a model, or takes what an earlier start has compiled: the key is a hash of everything that goes in, so the cache is never out of date.
 * @param device "host", or a device of the backend by name
 */
export async function compileBamba(
  config: BambaConfig,
  plan: ModelPlan,
  target: { readonly backend: Backend; readonly device?: string; readonly workers?: number; readonly parameters: number },
  { cache = cacheFolder(), onProgress, onKernel }: CompileOptions = {},
): Promise<CompiledModel> {
  const started = performance.now();
  const { backend } = target;
  const host = capsOf(backend, target.device ?? "host");
  const caps: Caps = target.workers === undefined ? host : { ...host, workers: target.workers };
  fingerprint ??= codeFingerprint(compilerFolders);
  const key = createHash("sha256")
    .update(
      JSON.stringify([fingerprint, backend.name, backend.toolchain?.version(caps), caps.name, caps.workers, plan, config], keepInfinity),
    )
    .digest("hex")
    .slice(0, 32);
  const entry = cache === null ? undefined : join(cache, "models", `bamba-${key}`);
  if (entry !== undefined) {
    const artifact = await readArtifact(entry).catch(() => undefined);
    if (artifact !== undefined) {
      touch(entry);
      return { artifact, cached: true, time: performance.now() - started, caps };
    }
  }
  const { compileModel } = await import("../../compiler/compile.ts");
  const programs = await traceModel(config, plan);
  const compile = cache === null ? withoutCache : (body: () => Promise<Artifact>) => body();
  const artifact = await compile(() =>
    compileModel({
      name: "bamba",
      programs,
      backend,
      caps,
      metadata: { model: "bamba", parameters: target.parameters, plan, positionAxes: positionAxes(config), vocabSize: config.vocabSize },
      ...(onProgress === undefined ? {} : { onProgress: (done: number, total: number, what: string) => onProgress({ done, total, what }) }),
      ...(onKernel === undefined ? {} : { onKernel }),
    }),
  );
  if (entry !== undefined) await keep(entry, artifact);
  return { artifact, cached: false, time: performance.now() - started, caps };
}

/** A backend knows its devices by name and says which there are; that the name came from a user is known here. */
export function capsOf(backend: Backend, device: string): Caps {
  try {
    return backend.caps(device);
  } catch (cause) {
    if (device === "host" || isUserError(cause)) throw cause;
    throw new UserError(`target ${device}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
}

/** The toolchain keeps objects of its own, which would make "compile anew" a half-truth. */
async function withoutCache<T>(body: () => Promise<T>): Promise<T> {
  const before = process.env["CULM_CACHE"];
  process.env["CULM_CACHE"] = "off";
  try {
    return await body();
  } finally {
    if (before === undefined) delete process.env["CULM_CACHE"];
    else process.env["CULM_CACHE"] = before;
  }
}

/** A cache that cannot be written costs time at the next start and nothing else. */
async function keep(entry: string, artifact: Artifact): Promise<void> {
  try {
    mkdirSync(dirname(entry), { recursive: true });
    await writeArtifact(entry, artifact);
    trimCache(dirname(entry), keptArtifacts);
  } catch (error) {
    if (!(error instanceof UserError) && !(error instanceof Error && "code" in error)) throw error;
  }
}

/** JSON has no infinity: two configurations that differ in one must not share a key. */
const keepInfinity = (_: string, value: unknown): unknown => (typeof value === "number" && !Number.isFinite(value) ? String(value) : value);

import { existsSync, readFileSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { wgslBackend } from "../../backends/wgsl/index.ts";
import { UserError } from "../../runtime/errors.ts";
import { resolveModel } from "../../runtime/hub/resolve.ts";
import { writeArtifactFiles } from "../../runtime/node/artifact.ts";
import type { Artifact } from "../../runtime/node/artifact.ts";
import { writeFolder } from "../../runtime/node/folder.ts";
import { finishBundle } from "../../runtime/node/web-bundle.ts";
import { writeTensors } from "../../runtime/node/write-checkpoint.ts";
import { readTokenizerFiles } from "../../runtime/text/auto-tokenizer.ts";
import { bundleFile, WEB_VERSION } from "../../runtime/web/bundle.ts";
import type { Variant } from "../../runtime/web/bundle.ts";
import { ropeDependsOnLength } from "../bamba/rope.ts";
import { bambaTensors } from "../bamba/weights.ts";
import { compileBamba } from "./compiled.ts";
import { modelName } from "./inspect.ts";
import type { LoadOptions } from "./model.ts";
import { planModel, positionAxes } from "./plan.ts";
import type { ModelPlan } from "./plan.ts";
import { openModelSource } from "./source.ts";
import type { ModelSource } from "./source.ts";

export interface WebOptions extends LoadOptions {
  /** Names of wgsl targets, best first; see defaultVariants unless given. */
  readonly variants?: readonly string[];
  /** What the page calls the model; the name of its folder unless given. */
  readonly name?: string;
  /** Bytes of weights written so far, and in all. */
  readonly onSave?: (bytes: number, total: number) => void;
  readonly onVariant?: (caps: string, index: number, count: number) => void;
}

export interface WebBundleFacts {
  readonly name: string;
  readonly variants: readonly { readonly caps: string; readonly kernels: number; readonly bytes: number; readonly cached: boolean }[];
  /** Of all files; a visitor loads one of the variants. */
  readonly bytes: number;
}

/**
 * What a model is compiled for unless told otherwise: large bindings and subgroups of 32 lanes, which desktop GPUs have, and last what every adapter has. Half
 * precision in shaders speeds up weights that are stored in it and nothing else.
 */
export function defaultVariants({ dtype }: Pick<ModelPlan, "dtype">): readonly string[] {
  if (dtype === "f16") return ["large-sg32-f16", "large-sg32", "base-f16", "base"];
  return ["large-sg32", "large", "base"];
}

const weightsFile = "weights/model.safetensors";
const storage = { f32: "F32", bf16: "BF16", f16: "F16" } as const;

/**
 * Writes a model as any static server can give it to a page (runtime/web/bundle.ts): compiled once for each variant, with its weights in the type and the
 * order in which they are loaded, and its tokenizer. The folder appears when it is complete; one that such a folder was before is replaced.
 * @throws UserError for an unknown variant and a model that a page cannot run, before anything is compiled; and when the folder cannot be written
 */
export async function writeWebBundle(nameOrFolder: string, out: string, options: WebOptions = {}): Promise<WebBundleFacts> {
  const source = openModelSource(await resolveModel(nameOrFolder, options));
  try {
    const plan = planModel(source.config, source.dtype, options, "webgpu");
    if (source.config.attentionLayers.length > 0 && ropeDependsOnLength(source.config.rope))
      throw new UserError(
        `${nameOrFolder}: its rotary embedding (rope_type) changes with the length of the text, which a page cannot follow`,
      );
    const names = options.variants ?? defaultVariants(plan);
    if (names.length === 0) throw new UserError("variants (--variants): expected at least one target of wgsl, such as base");
    for (const name of names) capsOf(name);
    const tokenizer = readTokenizerFiles(source.folder);
    let facts: WebBundleFacts | undefined;
    await writeFolder(out, bundleFile, "a model for a page", async (folder) => {
      facts = await writeFiles(folder, options.name ?? modelName(nameOrFolder), source, plan, names, tokenizer, options);
    });
    return facts!;
  } catch (error) {
    if (error instanceof Error && "syscall" in error) throw new UserError(`${out}: cannot be written (${error.message})`, { cause: error });
    throw error;
  } finally {
    source.checkpoint.close();
  }
}

/** @throws UserError for a name that is none of a target. */
function capsOf(name: string): void {
  try {
    wgslBackend.caps(name);
  } catch (cause) {
    throw new UserError(`variants (--variants): ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
}

async function writeFiles(
  folder: string,
  name: string,
  source: ModelSource,
  plan: ModelPlan,
  names: readonly string[],
  tokenizer: ReturnType<typeof readTokenizerFiles>,
  options: WebOptions,
): Promise<WebBundleFacts> {
  const { config } = source;
  const made: { readonly variant: Variant; readonly artifact: Artifact; readonly cached: boolean }[] = [];
  for (const [i, caps] of names.entries()) {
    options.onVariant?.(caps, i, names.length);
    const { artifact, cached } = await compileBamba(
      config,
      plan,
      { backend: wgslBackend, device: caps, parameters: source.parameters },
      {
        ...(options.cache === undefined ? {} : { cache: options.cache }),
        ...(options.onCompile === undefined ? {} : { onProgress: options.onCompile }),
      },
    );
    const variant = { caps: artifact.manifest.target.caps, requires: artifact.manifest.target.requires, folder: `wgsl/${caps}` };
    const own: Artifact = { ...artifact, manifest: { ...artifact.manifest, name } };
    await mkdir(join(folder, variant.folder), { recursive: true });
    await writeArtifactFiles(join(folder, variant.folder), own);
    made.push({ variant, artifact: own, cached });
  }
  await mkdir(join(folder, "weights"));
  await writeWeights(join(folder, weightsFile), source, plan, made[0]!.artifact, options.onSave);
  await writeFile(join(folder, "tokenizer.json"), `${JSON.stringify(tokenizer.tokenizer)}\n`);
  await writeFile(join(folder, "tokenizer_config.json"), `${JSON.stringify(tokenizer.config)}\n`);
  const { vocabSize, maxPositionEmbeddings, bosTokenId, eosTokenIds, padTokenId } = config;
  const bytes = await finishBundle(
    folder,
    {
      format: "culm-web",
      version: WEB_VERSION,
      compiler: made[0]!.artifact.manifest.compiler,
      name,
      variants: made.map(({ variant }) => variant),
      weights: [weightsFile],
      tokenizer: { file: "tokenizer.json", config: "tokenizer_config.json" },
      generation: readGeneration(source.folder),
      model: {
        parameters: source.parameters,
        dtype: plan.dtype,
        vocabSize,
        maxPositionEmbeddings,
        bosTokenId,
        eosTokenIds,
        padTokenId,
        positionAxes: positionAxes(config),
      },
    },
    options.signal,
  );
  return {
    name,
    bytes,
    variants: made.map(({ variant: { caps }, artifact: { manifest, kernels, literals }, cached }) => ({
      caps,
      kernels: manifest.kernels.length,
      bytes: kernels.length + literals.length,
      cached,
    })),
  };
}

/** One file, the tensors in the order in which an artifact loads them, so that a page fetches each part of it once. */
async function writeWeights(
  path: string,
  source: ModelSource,
  { dtype }: ModelPlan,
  { manifest }: Artifact,
  onSave: (bytes: number, total: number) => void = () => undefined,
): Promise<void> {
  const specs = new Map(bambaTensors(source.config).map(({ name, shape }) => [name, { name, shape, dtype: storage[dtype] }]));
  const order = new Set([...manifest.weights.flatMap(({ parts }) => parts.map(({ tensor }) => tensor)), ...specs.keys()]);
  const tensors = [...order].map((name) => specs.get(name)!);
  const total = tensors.reduce((sum, { shape }) => sum + shape.reduce((product, size) => product * size, dtype === "f32" ? 4 : 2), 0);
  let done = 0;
  await writeTensors(path, weightsFile, tensors, source.weights, (bytes) => onSave((done += bytes), total));
}

function readGeneration(folder: string): Readonly<Record<string, unknown>> | null {
  const file = join(folder, "generation_config.json");
  if (!existsSync(file)) return null;
  try {
    return JSON.parse(readFileSync(file, "utf8")) as Readonly<Record<string, unknown>>;
  } catch (cause) {
    throw new UserError(`${file}: is not valid JSON (${cause instanceof Error ? cause.message : String(cause)})`, { cause });
  }
}

import * as z from "zod";
import type { Requirements } from "../../compiler/artifact.ts";
import { shown, UserError } from "../errors.ts";

/**
 * A model as any static server serves it: a folder with `model.json` (this type), which names all other files: an artifact for each variant of the
 * target, the weights (safetensors, the tensors in the order in which they are loaded), and the tokenizer's files. `culm compile --web` writes it.
 *
 * A file is read in blocks of `blockBytes`, the last one shorter, each of which has a hash: a block is fetched, checked, cached and fetched again by itself.
 */
export interface WebBundle {
  readonly format: "culm-web";
  readonly version: typeof WEB_VERSION;
  /** Version of the compiler that wrote it. */
  readonly compiler: string;
  readonly name: string;
  readonly blockBytes: number;
  readonly files: readonly BundleFile[];
  /** Best first. */
  readonly variants: readonly Variant[];
  /** Paths of the safetensors files. */
  readonly weights: readonly string[];
  /** Paths of tokenizer.json and tokenizer_config.json, chat templates included. */
  readonly tokenizer: { readonly file: string; readonly config: string };
  /** The model's generation_config.json; null without one. */
  readonly generation: Readonly<Record<string, unknown>> | null;
  readonly model: BundleModel;
}

export const WEB_VERSION = 1;

/** The file that stands for the whole folder. */
export const bundleFile = "model.json";

export interface BundleFile {
  /** From the folder, with "/" between its parts. */
  readonly path: string;
  readonly bytes: number;
  /** SHA-256 of each block, in hexadecimal. */
  readonly blocks: readonly string[];
}

/** An artifact and what it needs of an adapter. */
export interface Variant {
  /** Name of the caps that it was compiled for. */
  readonly caps: string;
  readonly requires: Requirements;
  /** Path of the artifact's folder. */
  readonly folder: string;
}

/** What the text side needs to know of the model. */
export interface BundleModel {
  readonly parameters: number;
  readonly dtype: string;
  readonly vocabSize: number;
  readonly maxPositionEmbeddings: number;
  readonly bosTokenId: number | null;
  readonly eosTokenIds: readonly number[];
  readonly padTokenId: number | null;
  /** As SessionOptions.positionAxes. */
  readonly positionAxes: Readonly<Record<string, number>>;
}

const text = z.string().max(10_000);
const count = z.int().min(0);
const tokenId = z
  .int()
  .min(0)
  .max(2 ** 31 - 1);
/** A path that stays in the folder, whatever a server or a browser makes of it. */
const path = z
  .string()
  .max(500)
  .regex(/^[\w-][\w.-]*(\/[\w-][\w.-]*)*$/, "expected a path inside the folder, of letters, digits, and . _ -");

const bundleSchema = z.object({
  format: z.literal("culm-web"),
  version: z.literal(WEB_VERSION),
  compiler: text,
  name: text,
  blockBytes: z
    .int()
    .min(1 << 10)
    .max(1 << 28),
  files: z.array(z.object({ path, bytes: count.max(2 ** 45), blocks: z.array(z.string().regex(/^[0-9a-f]{64}$/)) })).max(100_000),
  variants: z
    .array(
      z.object({
        caps: text,
        requires: z.object({ features: z.array(text), limits: z.record(z.string(), z.number()), subgroup: z.int().min(1).nullable() }),
        folder: path,
      }),
    )
    .min(1)
    .max(1000),
  weights: z.array(path).min(1),
  tokenizer: z.object({ file: path, config: path }),
  generation: z.record(z.string(), z.unknown()).nullable(),
  model: z.object({
    parameters: count,
    dtype: text,
    vocabSize: tokenId.min(1),
    maxPositionEmbeddings: tokenId,
    bosTokenId: tokenId.nullable(),
    eosTokenIds: z.array(tokenId),
    padTokenId: tokenId.nullable(),
    positionAxes: z.record(z.string(), z.int().min(0).max(16)),
  }),
});

/** Files of an artifact, in its folder. */
export const artifactFiles = ["manifest.json", "kernels.bin", "literals.bin"] as const;

/**
 * Checks a model.json, which comes from a stranger.
 * @param where its address, for messages
 * @throws UserError naming the field.
 */
export function parseBundle(content: string, where: string): WebBundle {
  const json = parseJson(content, where);
  const version = typeof json === "object" && json !== null && "version" in json ? json.version : undefined;
  if (typeof version === "number" && version !== WEB_VERSION)
    throw new UserError(`${where}: version: this is a model of version ${version}, this page reads version ${WEB_VERSION}`, {
      hint: "compile the model again, or load a newer page",
    });
  const result = bundleSchema.safeParse(json);
  if (!result.success) {
    const issue = result.error.issues[0]!;
    throw new UserError(`${where}: ${issue.path.map(String).join(".") || "model.json"}: ${issue.message}`, {
      hint: "a model for a page is a folder that `culm compile --web` writes",
    });
  }
  const bundle: WebBundle = result.data;
  checkFiles(bundle, where);
  return bundle;
}

/** @throws UserError where the text is no JSON, saying so when a server has sent a page in its place. */
export function parseJson(content: string, where: string): unknown {
  try {
    return JSON.parse(content) as unknown;
  } catch (cause) {
    const page = /^\s*</.test(content);
    throw new UserError(`${where}: is not valid JSON${page ? ", but a page" : ""} (it begins with ${shown(content.slice(0, 40))})`, {
      cause,
      hint: page ? "the server answers with a page for files that it does not have; check the address of the model" : "check the file",
    });
  }
}

/** Every file that is named is there, once, with as many blocks as it has bytes for. */
function checkFiles({ files, blockBytes, variants, weights, tokenizer }: WebBundle, where: string): void {
  const known = new Set<string>();
  for (const { path: name, bytes, blocks } of files) {
    if (known.has(name)) throw new UserError(`${where}: files: ${name} is there twice`);
    known.add(name);
    if (blocks.length !== Math.ceil(bytes / blockBytes))
      throw new UserError(
        `${where}: files: ${name} has ${bytes} bytes, which are ${Math.ceil(bytes / blockBytes)} blocks, not ${blocks.length}`,
      );
  }
  const used = [
    ...weights,
    tokenizer.file,
    tokenizer.config,
    ...variants.flatMap(({ folder }) => artifactFiles.map((file) => `${folder}/${file}`)),
  ];
  const missing = used.find((name) => !known.has(name));
  if (missing !== undefined) throw new UserError(`${where}: files: ${missing} is used and not listed`);
}

/** The entry of a file that parseBundle has seen to be there. */
export const fileOf = (bundle: WebBundle, name: string): BundleFile => bundle.files.find((file) => file.path === name)!;

import type { Manifest } from "../../compiler/artifact.ts";
import { definedOnly } from "../defined.ts";
import type { Device, Driver, OpenOptions } from "../driver.ts";
import type { AdapterFacts } from "../drivers/webgpu/adapter.ts";
import { UserError } from "../errors.ts";
import { ArtifactError, parseManifest } from "../manifest.ts";
import { createSession } from "../model-session.ts";
import type { Session } from "../session.ts";
import { openArtifact } from "../steps.ts";
import type { LoadedArtifact } from "../steps.ts";
import { parseGenerationConfig } from "../text/generation-config.ts";
import type { GenerationFile } from "../text/generation-config.ts";
import type { TextModel } from "../text/request.ts";
import { Tokenizer } from "../text/tokenizer.ts";
import type { Json } from "../text/tokenizer-file.ts";
import { openBlockCache } from "./block-cache.ts";
import { artifactFiles, bundleFile, fileOf, parseBundle, parseJson } from "./bundle.ts";
import type { BundleFile, Variant, WebBundle } from "./bundle.ts";
import { openFiles } from "./files.ts";
import type { BundleFiles } from "./files.ts";
import type { Platform } from "./platform.ts";
import { startProgress } from "./progress.ts";
import type { ModelFacts, Progress, Settings } from "./protocol.ts";
import { patience, requestText } from "./request.ts";
import type { Patience } from "./request.ts";
import { chooseVariant } from "./variants.ts";
import { openWeights } from "./weights.ts";

/** The WebGPU driver (drivers/webgpu/device.ts), as far as a page needs it. */
export interface PageDriver extends Driver {
  facts(): Promise<AdapterFacts>;
  open(options?: OpenOptions): Promise<PageDevice>;
}

export interface PageDevice extends Device {
  readonly gpu: { readonly lost: Promise<{ readonly reason: string; readonly message: string }> };
}

export interface OpenWebOptions {
  readonly platform: Platform;
  readonly signal: AbortSignal;
  readonly onProgress?: (progress: Progress) => void;
  /** Told of what stops nothing. */
  readonly onNote?: (message: string) => void;
  readonly patience?: Patience;
}

/** A model that runs in this page. */
export interface WebModel {
  readonly facts: ModelFacts;
  readonly manifest: Manifest;
  readonly session: Session;
  readonly tokenizer: Tokenizer;
  readonly generation: GenerationFile | undefined;
  readonly text: TextModel;
  /** Resolves when the device is gone, but for `close`, to the reason. */
  readonly lost: Promise<string>;
  close(): Promise<void>;
}

/** A model.json names some files of some variants: far below what would hurt to parse, far above what a model of a terabyte needs. */
const maxBundleBytes = 32 << 20;

/**
 * Loads a model that `culm compile --web` wrote. Nothing large is loaded before the adapter is known to run one of its variants.
 * @param url of the folder, or of the model.json in it
 * @throws UserError without an adapter, when none of the variants runs on it (with what is missing), and naming the file that cannot be loaded or is not what
 * model.json says
 */
export async function openWebModel(url: string, driver: PageDriver, options: OpenWebOptions): Promise<WebModel> {
  const { platform, signal, onProgress = () => undefined, onNote = () => undefined, patience: patient = patience } = options;
  const started = performance.now();
  const meter = startProgress(onProgress);
  const base = baseOf(url);
  const where = new URL(bundleFile, base).href;
  const adapter = await driver.facts();
  const bundle = parseBundle(await requestText(platform, where, maxBundleBytes, { signal }, patient), where);
  const variant = chooseVariant(bundle.variants, adapter);

  meter.stage("kernels");
  const cache = await openBlockCache(platform, onNote);
  const files = openFiles(platform, base, bundle, cache, { signal, onBytes: meter.arrived, onNote, patience: patient });
  meter.expect(neededFiles(bundle, variant).reduce((sum, { bytes }) => sum + bytes, 0));
  const [artifact, tokenizer] = [await readArtifact(bundle, variant, files), await readTokenizer(bundle, files)];
  const generation = bundle.generation === null ? undefined : parseGenerationConfig(bundle.generation, `${where}: generation`);
  signal.throwIfAborted();
  const device = await driver.open({ requires: artifact.manifest.target.requires });
  try {
    const source = await openWeights(
      files,
      bundle.weights.map((path) => fileOf(bundle, path)),
    );
    const session = await openSession(bundle, artifact, device, {
      path: source.path,
      tensors: source.tensors,
      readInto: (name, target, offset) => {
        meter.stage("weights");
        return source.readInto(name, target, offset);
      },
    });
    signal.throwIfAborted();
    await cache.keepOnly(base, blocksOf(bundle, files));
    const { manifest } = artifact;
    const facts: ModelFacts = {
      name: bundle.name,
      adapter,
      caps: variant.caps,
      requires: manifest.target.requires,
      compiler: bundle.compiler,
      parameters: bundle.model.parameters,
      dtype: bundle.model.dtype,
      vocabSize: session.vocabSize,
      maxLength: session.capacity,
      ...memoryOf(manifest),
      launches: manifest.programs.find(({ name }) => name === decodeProgram)?.steps.length ?? 0,
      bytes: meter.bytes,
      downloaded: meter.bytes - meter.cached,
      time: performance.now() - started,
      chat: tokenizer.chatTemplate !== null,
      timing: adapter.features.includes("timestamp-query"),
      settings: settingsOf(generation),
    };
    let closed = false;
    return {
      facts,
      manifest,
      session,
      tokenizer,
      generation,
      text: bundle.model,
      lost: new Promise((resolve) => {
        void device.gpu.lost.then(({ reason, message }) => {
          if (!closed) resolve(message === "" ? reason : message);
        });
      }),
      async close() {
        closed = true;
        session.executor.close();
        await device.close();
      },
    };
  } catch (error) {
    await device.close();
    throw error;
  }
}

/** The program that makes a token of one row. */
export const decodeProgram = "decode.1";

/** Address of the folder, with a slash at its end. */
function baseOf(url: string): string {
  let address: URL;
  try {
    address = new URL(url);
  } catch (cause) {
    throw new UserError(`${url}: is not the address of a model`, { cause, hint: `give that of a folder with ${bundleFile} in it` });
  }
  address.search = "";
  address.hash = "";
  if (address.pathname.endsWith(`/${bundleFile}`)) address.pathname = address.pathname.slice(0, -bundleFile.length);
  else if (!address.pathname.endsWith("/")) address.pathname += "/";
  return address.href;
}

function neededFiles(bundle: WebBundle, { folder }: Variant): readonly BundleFile[] {
  const { weights, tokenizer } = bundle;
  const paths = new Set([...artifactFiles.map((file) => `${folder}/${file}`), tokenizer.file, tokenizer.config, ...weights]);
  return [...paths].map((path) => fileOf(bundle, path));
}

function blocksOf(bundle: WebBundle, files: BundleFiles): readonly { readonly url: string; readonly hash: string }[] {
  return bundle.files.flatMap((file) => file.blocks.map((hash) => ({ url: files.urlOf(file), hash })));
}

async function readArtifact(bundle: WebBundle, { folder, caps }: Variant, files: BundleFiles): Promise<LoadedArtifact> {
  const [manifestFile, kernelsFile, literalsFile] = artifactFiles.map((name) => fileOf(bundle, `${folder}/${name}`)) as [
    BundleFile,
    BundleFile,
    BundleFile,
  ];
  const where = files.urlOf(manifestFile);
  const literals = await files.read(literalsFile);
  const manifest = parseManifest(parseJson(textOf(await files.read(manifestFile)), where), literals.length, where);
  if (manifest.target.caps !== caps)
    throw new ArtifactError(`${where}: target.caps: is ${manifest.target.caps}, and model.json says ${caps}`, {
      hint: "compile the model again",
    });
  return { manifest, kernels: await files.read(kernelsFile), literals };
}

async function readTokenizer({ tokenizer, files: listed }: WebBundle, files: BundleFiles): Promise<Tokenizer> {
  const read = async (path: string): Promise<Json> => {
    const file = listed.find((entry) => entry.path === path)!;
    const where = files.urlOf(file);
    const json = parseJson(textOf(await files.read(file)), where);
    if (typeof json !== "object" || json === null || Array.isArray(json)) throw new UserError(`${where}: expected a JSON object`);
    return json as Json;
  };
  const where = files.urlOf(listed.find(({ path }) => path === tokenizer.file)!);
  return new Tokenizer(await read(tokenizer.file), await read(tokenizer.config), where);
}

const textOf = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);

async function openSession(
  { model }: WebBundle,
  artifact: LoadedArtifact,
  device: Device,
  source: Parameters<typeof openArtifact>[2],
): Promise<Session> {
  const executor = await openArtifact(device, artifact, source);
  // Tables that follow from the positions of a call are for code that knows the model; `culm compile --web` refuses such a model.
  const unknown = executor.programs.flatMap(({ inputs }) => inputs).find(({ name }) => name.startsWith("rope_"));
  if (unknown !== undefined)
    throw new ArtifactError(`the compiled model takes ${unknown.name}, which a page cannot give`, {
      hint: "compile the model with `culm compile --web`",
    });
  return createSession(executor, { positionAxes: model.positionAxes, vocabSize: model.vocabSize });
}

function memoryOf({ weights, states, programs }: Manifest): Pick<ModelFacts, "weightBytes" | "stateBytes"> {
  const sum = (entries: readonly { readonly bytes: number }[]): number => entries.reduce((total, { bytes }) => total + bytes, 0);
  const tensors = new Map<string, number>();
  for (const { name, bytes } of programs.flatMap(({ inputs, outputs }) => [...inputs, ...outputs]))
    tensors.set(name, Math.max(tensors.get(name) ?? 0, bytes));
  const arenas: number[] = [];
  for (const program of programs) program.arenas.forEach((bytes, i) => (arenas[i] = Math.max(arenas[i] ?? 0, bytes)));
  const between = [...arenas, ...tensors.values()].reduce((total, bytes) => total + bytes, 0);
  return { weightBytes: sum(weights), stateBytes: sum(states) + between };
}

/** Of a model's own settings those that a page has controls for. */
function settingsOf(file: GenerationFile | undefined): Settings {
  const { maxNewTokens, minNewTokens, doSample, temperature, topK, topP, minP, typicalP, repetitionPenalty, noRepeatNgramSize } =
    file?.options ?? {};
  return definedOnly({
    maxNewTokens,
    minNewTokens,
    doSample,
    temperature,
    topK,
    topP,
    minP,
    typicalP,
    repetitionPenalty,
    noRepeatNgramSize,
  });
}

import { randomBytes } from "node:crypto";
import { mkdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import type { Manifest } from "../../compiler/artifact.ts";
import { ArtifactError, parseManifest } from "../manifest.ts";

/** A compiled model: what the compiler gives and the runtime takes. */
export interface Artifact {
  readonly manifest: Manifest;
  /** The target's binary, all kernels. */
  readonly kernels: Uint8Array;
  readonly literals: Uint8Array;
}

const files = { manifest: "manifest.json", kernels: "kernels.bin", literals: "literals.bin" };

/**
 * Writes an artifact as a folder. It appears under its name only when it is complete: it is written beside it under another name and renamed.
 * A folder of that name that is an artifact is replaced; anything else there is left alone.
 * @throws ArtifactError when there is something else under that name, or the file system refuses.
 */
export async function writeArtifact(folder: string, { manifest, kernels, literals }: Artifact): Promise<void> {
  const target = resolve(folder);
  const temporary = `${target}.${randomBytes(6).toString("hex")}.tmp`;
  try {
    await mkdir(dirname(target), { recursive: true });
    await mkdir(temporary);
    await writeFile(join(temporary, files.kernels), kernels);
    await writeFile(join(temporary, files.literals), literals);
    await writeFile(join(temporary, files.manifest), `${JSON.stringify(manifest)}\n`);
    await replace(temporary, target);
  } catch (cause) {
    await rm(temporary, { recursive: true, force: true });
    if (cause instanceof ArtifactError) throw cause;
    throw new ArtifactError(`${folder}: the artifact cannot be written (${cause instanceof Error ? cause.message : String(cause)})`, {
      cause,
    });
  }
}

async function replace(temporary: string, target: string): Promise<void> {
  const present = await stat(target).catch(() => undefined);
  if (present === undefined) return rename(temporary, target);
  if (!(await stat(join(target, files.manifest)).catch(() => undefined))?.isFile())
    throw new ArtifactError(`${target}: exists already and is not an artifact`, { hint: "give another name, or remove it" });
  // A folder cannot be renamed over a folder that is not empty, so the old one steps aside; whoever has its files open keeps them.
  const old = `${temporary}.old`;
  await rename(target, old);
  await rename(temporary, target);
  await rm(old, { recursive: true, force: true });
}

/**
 * Reads an artifact's folder and checks it whole.
 * @throws ArtifactError naming the file and the field.
 */
export async function readArtifact(folder: string): Promise<Artifact> {
  const [json, kernels, literals] = await Promise.all([
    readPart(folder, files.manifest),
    readPart(folder, files.kernels),
    readPart(folder, files.literals),
  ]);
  const where = join(folder, files.manifest);
  let manifest: unknown;
  try {
    manifest = JSON.parse(json.toString("utf8"));
  } catch (cause) {
    throw new ArtifactError(`${where}: is not valid JSON (${cause instanceof Error ? cause.message : String(cause)})`, { cause });
  }
  return { manifest: parseManifest(manifest, literals.length, where), kernels, literals };
}

async function readPart(folder: string, name: string): Promise<Buffer> {
  try {
    return await readFile(join(folder, name));
  } catch (cause) {
    const code = cause instanceof Error && "code" in cause ? cause.code : undefined;
    const why = code === "ENOENT" ? "there is no such file" : code === "ENOTDIR" ? "not a folder" : String(cause);
    throw new ArtifactError(`${join(folder, name)}: cannot be read (${why})`, {
      cause,
      hint: "an artifact is a folder that `culm compile` writes",
    });
  }
}

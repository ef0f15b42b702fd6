import { mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Manifest } from "../../compiler/artifact.ts";
import { UserError } from "../errors.ts";
import { ArtifactError, parseManifest } from "../manifest.ts";
import { writeFolder } from "./folder.ts";

/** A compiled model: what the compiler gives and the runtime takes. */
export interface Artifact {
  readonly manifest: Manifest;
  /** The target's binary, all kernels. */
  readonly kernels: Uint8Array;
  readonly literals: Uint8Array;
  /** What else an artifact for a target has in its folder. The runtime does not read it. */
  readonly files?: readonly ExtraFile[];
}

export interface ExtraFile {
  /** Below the artifact's folder. */
  readonly path: string;
  readonly contents: string | Uint8Array;
  readonly executable?: boolean;
}

const files = { manifest: "manifest.json", kernels: "kernels.bin", literals: "literals.bin" };

/**
 * Writes an artifact as a folder. It appears under its name only when it is complete: it is written beside it under another name and renamed.
 * A folder of that name that is an artifact is replaced; anything else there is left alone.
 * @throws UserError when there is something else under that name, or the file system refuses.
 */
export async function writeArtifact(folder: string, artifact: Artifact): Promise<void> {
  try {
    await writeFolder(folder, files.manifest, "an artifact", (temporary) => writeArtifactFiles(temporary, artifact));
  } catch (cause) {
    if (cause instanceof UserError) throw cause;
    throw new ArtifactError(`${folder}: the artifact cannot be written (${cause instanceof Error ? cause.message : String(cause)})`, {
      cause,
    });
  }
}

/** Writes an artifact's files into a folder that is there. */
export async function writeArtifactFiles(folder: string, { manifest, kernels, literals, files: more = [] }: Artifact): Promise<void> {
  for (const { path, contents, executable = false } of more) {
    await mkdir(dirname(join(folder, path)), { recursive: true });
    await writeFile(join(folder, path), contents, { mode: executable ? 0o755 : 0o644 });
  }
  await writeFile(join(folder, files.kernels), kernels);
  await writeFile(join(folder, files.literals), literals);
  await writeFile(join(folder, files.manifest), `${JSON.stringify(manifest)}\n`);
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

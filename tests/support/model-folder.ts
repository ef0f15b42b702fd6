import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { openCheckpoint } from "../../runtime/node/checkpoint.ts";
import { writeSafetensors } from "../../runtime/node/write-safetensors.ts";
import type { TensorToWrite } from "../../runtime/node/write-safetensors.ts";

export const goldenFolder = (name: string): string => fileURLToPath(new URL(`../reference/golden/${name}`, import.meta.url));
export const tinyFolder = fileURLToPath(new URL("../../models/bamba-tiny", import.meta.url));

/** A folder for one test file: `fresh` gives a new name in it, `remove` deletes it. */
export function scratchFolder(name: string): { readonly path: string; fresh(): string; remove(): void } {
  const path = mkdtempSync(join(tmpdir(), `culm-${name}-`));
  let count = 0;
  return { path, fresh: () => join(path, String((count += 1))), remove: () => rmSync(path, { recursive: true, force: true }) };
}

/** A copy of a model's folder that may be spoilt. */
export interface ModelFolder {
  readonly path: string;
  file(name: string): string;
  /** Changes fields of config.json; undefined removes one. */
  config(changes: Readonly<Record<string, unknown>>): void;
  /** Rewrites the checkpoint with its tensors changed. */
  tensors(change: (tensors: Map<string, TensorToWrite>) => void): void;
  /** Changes the bytes of the checkpoint file itself. */
  bytes(change: (bytes: Buffer) => Buffer): void;
  /** Changes the JSON text of the checkpoint's header and puts the right length before it. */
  header(change: (text: string) => string): void;
}

export function copyModel(from: string, to: string): ModelFolder {
  cpSync(from, to, { recursive: true, filter: (path) => !/golden\.(json|safetensors)$/.test(path) });
  const file = (name: string): string => join(to, name);
  const weights = file("model.safetensors");
  const bytes: ModelFolder["bytes"] = (change) => writeFileSync(weights, change(readFileSync(weights)));
  return {
    path: to,
    file,
    config: (changes) => {
      const json = JSON.parse(readFileSync(file("config.json"), "utf8")) as Record<string, unknown>;
      writeFileSync(file("config.json"), JSON.stringify({ ...json, ...changes }));
    },
    tensors: (change) => {
      const checkpoint = openCheckpoint(to);
      const tensors = new Map(
        [...checkpoint.tensors.values()].map(({ name, dtype, shape }): [string, TensorToWrite] => [
          name,
          { name, dtype, shape, data: checkpoint.read(name) },
        ]),
      );
      checkpoint.close();
      change(tensors);
      writeSafetensors(weights, [...tensors.values()], { format: "pt" });
    },
    bytes,
    header: (change) =>
      bytes((whole) => {
        const length = Number(whole.readBigUInt64LE(0));
        const text = Buffer.from(change(whole.toString("utf8", 8, 8 + length)));
        const prefix = Buffer.alloc(8);
        prefix.writeBigUInt64LE(BigInt(text.length));
        return Buffer.concat([prefix, text, whole.subarray(8 + length)]);
      }),
  };
}

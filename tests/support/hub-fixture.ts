import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeEach, vi } from "vitest";
import { openHub } from "./hub-server.ts";
import type { HubServer } from "./hub-server.ts";
import { goldenFolder, scratchFolder, tinyFolder } from "./model-folder.ts";

const read = (folder: string, names: readonly string[]): [string, Buffer][] =>
  names.map((name) => [name, readFileSync(join(folder, name))]);

/** A golden model with the tokenizer of bamba-tiny, and what else lies in a repository. */
export const repository: ReadonlyMap<string, Buffer> = new Map([
  ...read(goldenFolder("base"), ["config.json", "generation_config.json", "model.safetensors"]),
  ...read(tinyFolder, ["tokenizer.json", "tokenizer_config.json"]),
  ["README.md", Buffer.from("# for people")] as const,
  ["pytorch_model.bin", Buffer.from("a pickle")] as const,
]);

/** For each test a hub of its own with `repository` in it, an empty cache, and an environment that names both. */
export interface HubFixture {
  readonly hub: HubServer;
  /** HF_HOME */
  readonly home: string;
  /** A place in the cache. */
  place(...path: readonly string[]): string;
  fresh(): string;
}

export function useHub(name: string): HubFixture {
  const scratch = scratchFolder(name);
  let [hub, home]: [HubServer | undefined, string] = [undefined, ""];
  beforeEach(async () => {
    hub = await openHub(repository);
    home = scratch.fresh();
    for (const name of [
      "HF_HUB_CACHE",
      "HUGGINGFACE_HUB_CACHE",
      "HF_TOKEN",
      "HF_TOKEN_PATH",
      "HF_HUB_OFFLINE",
      "HF_HUB_DISABLE_IMPLICIT_TOKEN",
    ])
      vi.stubEnv(name, "");
    vi.stubEnv("HF_HOME", home);
    vi.stubEnv("HF_ENDPOINT", hub.endpoint);
  });
  afterEach(async () => {
    vi.unstubAllEnvs();
    await hub!.close();
  });
  afterAll(scratch.remove);
  return {
    get hub() {
      return hub!;
    },
    get home() {
      return home;
    },
    place: (...path) => join(home, "hub", "models--org--tiny", ...path),
    fresh: scratch.fresh,
  };
}

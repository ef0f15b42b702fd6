import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { projectRoot } from "../../scripts/build.mjs";

const read = (path: string): string => readFileSync(join(projectRoot, path), "utf8");

interface Package {
  readonly dependencies: Record<string, string>;
  readonly devDependencies: Record<string, string>;
  readonly exports: Record<string, string | { readonly "culm-source": string; readonly types: string; readonly default: string }>;
  readonly bin: Record<string, string>;
}

const manifest = JSON.parse(read("package.json")) as Package;

test("every dependency is pinned to one version", () => {
  const ranges = Object.entries({ ...manifest.dependencies, ...manifest.devDependencies }).filter(
    ([, version]) => !/^(npm:[\w@/.-]+@)?\d+\.\d+\.\d+$/.test(version),
  );
  expect(ranges).toEqual([]);
});

test("the lock file names no registry", () => {
  const lock = JSON.parse(read("package-lock.json")) as { packages: Record<string, { resolved?: string; integrity?: string }> };
  const entries = Object.entries(lock.packages).filter(([path]) => path !== "");
  expect(entries.filter(([, entry]) => entry.resolved !== undefined)).toEqual([]);
  expect(entries.filter(([, entry]) => entry.integrity === undefined)).toEqual([]);
});

test("the lock file is whole for every platform: npm ci refuses one that lacks an optional binary", () => {
  const lock = JSON.parse(read("package-lock.json")) as { packages: Record<string, { optionalDependencies?: Record<string, string> }> };
  const locked = new Set(Object.keys(lock.packages).map((path) => path.replace(/^.*node_modules\//, "")));
  const optional = Object.values(lock.packages).flatMap((entry) => Object.keys(entry.optionalDependencies ?? {}));
  expect(optional.filter((name) => !locked.has(name))).toEqual([]);
});

test("every public entry has a source, and what is built lies at the mirrored place", () => {
  for (const target of Object.values(manifest.exports)) {
    if (typeof target === "string") continue;
    expect(existsSync(join(projectRoot, target["culm-source"])), target["culm-source"]).toBe(true);
    expect(target.default).toBe(target["culm-source"].replace(/^\.\//, "./dist/").replace(/\.ts$/, ".js"));
    expect(target.types).toBe(target.default.replace(/\.js$/, ".d.ts"));
  }
  for (const program of Object.values(manifest.bin)) expect(existsSync(join(projectRoot, program)), program).toBe(true);
});

test("the embedded checkpoint is whole", () => {
  const folder = join(projectRoot, "models/bamba-tiny");
  for (const file of ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]) {
    expect(existsSync(join(folder, file)), file).toBe(true);
  }
});

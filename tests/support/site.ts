import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { projectRoot } from "../../scripts/build.mjs";
import type { WebBundle } from "../../runtime/web/bundle.ts";

/** A built page with bamba-tiny, as `npm run web:build` writes it. */
export interface Site {
  readonly folder: string;
  /** The model's list of files, as it is, and what the tests let the page see of it: only the baseline, whose kernels SwiftShader compiles fastest. */
  readonly all: WebBundle;
  readonly bundle: WebBundle;
}

export function buildSite(folder: string): Site {
  const args = [join(projectRoot, "scripts", "web.mjs"), "--build-only", "--out", folder];
  const { status, stderr } = spawnSync(process.execPath, args, { cwd: projectRoot, encoding: "utf8" });
  if (status !== 0) throw new Error(stderr);
  const all = JSON.parse(readFileSync(join(folder, "model", "model.json"), "utf8")) as WebBundle;
  return { folder, all, bundle: { ...all, variants: all.variants.filter(({ caps }) => caps === "base") } };
}

import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { build } from "vite";
import { projectRoot } from "../../scripts/build.mjs";
import { culm } from "./cli.ts";

/** Folders of the page, built, and of bamba-tiny, compiled for it. */
export interface Site {
  readonly page: string;
  readonly model: string;
}

/** Makes both below a folder, as `npm run web:build` does. */
export async function buildSite(folder: string): Promise<Site> {
  mkdirSync(folder, { recursive: true });
  const site = { page: join(folder, "page"), model: join(folder, "model") };
  const root = join(projectRoot, "runtime", "web", "page");
  await build({
    root,
    configFile: join(root, "vite.config.ts"),
    logLevel: "error",
    mode: "production",
    build: { outDir: site.page },
  });
  const { code, err } = await culm("compile", "--model", "models/bamba-tiny", "--web", "--variants", "large", "--out", site.model);
  if (code !== 0) throw new Error(err);
  return site;
}

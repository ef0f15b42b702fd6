// Bundles the tests for a machine with a GPU, and the command line, each into one file that plain `node` runs where koffi lies beside it in node_modules:
// such a machine has no npm. Usage: node scripts/device.mjs OUT_DIR. Then, in the project's folder there (or with CULM_ROOT naming it):
//   node OUT_DIR/device-tests.mjs --backend cuda        prints "N passed, N failed"
//   node OUT_DIR/culm.mjs bench --device cuda ...
// What code finds by its own address, such as models/bamba-tiny or the sources that a cache's key is made of, is found from that folder.

import { readFile } from "node:fs/promises";
import { join, relative, resolve, sep } from "node:path";
import { pathToFileURL } from "node:url";
import { build } from "esbuild";
import { projectRoot } from "./build.mjs";

/** `import.meta.url` as it is in the source's own place, below the folder where the bundle is run. @type {import("esbuild").Plugin} */
const ownAddress = {
  name: "own-address",
  setup(bundler) {
    bundler.onLoad({ filter: /\.(ts|mjs)$/ }, async ({ path }) => {
      if (path.includes(`${sep}node_modules${sep}`)) return undefined;
      const place = relative(projectRoot, path).split(sep).join("/");
      const text = await readFile(path, "utf8");
      return {
        contents: text.replaceAll("import.meta.url", `globalThis.culmAddress(${JSON.stringify(place)})`),
        loader: path.endsWith(".ts") ? "ts" : "js",
      };
    });
  },
};

/** Packages that are not there: vitest has a stand-in, and what only WebGPU needs fails when it is used. @type {import("esbuild").Plugin} */
const standIns = {
  name: "stand-ins",
  setup(bundler) {
    bundler.onResolve({ filter: /^vitest$/ }, () => ({ path: join(projectRoot, "tests", "device", "vitest.ts") }));
    bundler.onResolve({ filter: /^(webgpu|esbuild)$/ }, ({ path }) => ({ path, namespace: "absent" }));
    bundler.onLoad({ filter: /.*/, namespace: "absent" }, ({ path }) => ({
      contents: `const absent = () => { throw Object.assign(new Error(${JSON.stringify(`${path} is not part of this bundle`)}), { code: "ERR_MODULE_NOT_FOUND" }); };
export { absent as create, absent as build, absent as transform }; export const globals = {};`,
    }));
  },
};

const banner = `import { createRequire as culmRequire } from "node:module";
import { pathToFileURL as culmFileUrl } from "node:url";
const require = culmRequire(import.meta.url);
const culmRoot = culmFileUrl((process.env.CULM_ROOT ?? process.cwd()) + "/");
globalThis.culmAddress = (place) => new URL(place, culmRoot).href;`;

/** What the bundles begin with, in the project's root. */
const entries = {
  tests: 'import "./tests/device/main.ts";',
  culm: 'import { main } from "./runtime/cli/main.ts"; process.exitCode = await main(process.argv.slice(2));',
};

/** @param {keyof typeof entries} what @param {string} outfile @returns {Promise<void>} */
export async function bundleForDevice(what, outfile) {
  await build({
    stdin: { contents: entries[what], resolveDir: projectRoot },
    outfile,
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node20",
    conditions: ["culm-source"],
    external: ["koffi"],
    banner: { js: banner },
    plugins: [ownAddress, standIns],
    sourcemap: "inline",
    logLevel: "warning",
  });
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(resolve(process.argv[1])).href) {
  const out = process.argv[2];
  if (out === undefined) {
    console.error("usage: node scripts/device.mjs OUT_DIR");
    process.exitCode = 1;
  } else {
    await bundleForDevice("tests", join(out, "device-tests.mjs"));
    await bundleForDevice("culm", join(out, "culm.mjs"));
  }
}

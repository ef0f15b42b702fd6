import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { projectRoot, sourceFolders } from "../../scripts/build.mjs";

interface Violation {
  readonly rule: { readonly name: string };
  readonly from: string;
  readonly to: string;
}

/** Runs the project's import rules over the folders of `root`. */
function cruise(root: string): readonly string[] {
  const program = join(projectRoot, "node_modules/dependency-cruiser/bin/dependency-cruise.mjs");
  const folders = sourceFolders.filter((folder) => existsSync(join(root, folder)));
  const config = join(projectRoot, ".dependency-cruiser.cjs");
  const { stdout, stderr } = spawnSync(process.execPath, [program, "--config", config, "--output-type", "json", ...folders], {
    cwd: root,
    encoding: "utf8",
    maxBuffer: 1 << 28,
  });
  if (stdout === "") throw new Error(stderr);
  const { summary } = JSON.parse(stdout) as { summary: { violations: Violation[] } };
  return summary.violations.map(({ rule, from, to }) => `${rule.name}: ${from} -> ${to}`);
}

test("every import of the project follows the rules", () => {
  expect(cruise(projectRoot)).toEqual([]);
});

describe("the rules catch what they are for", () => {
  const root = mkdtempSync(join(tmpdir(), "culm-imports-"));
  afterAll(() => rmSync(root, { recursive: true }));

  /** One file per line: path, then what it imports. A leading `type ` makes it a type-only import. */
  const project: Record<string, readonly string[]> = {
    "compiler/ir/expr.ts": ["compiler/diagnostics.ts", "type compiler/fuse.ts"],
    "compiler/ir/graph.ts": ["compiler/ir/expr.ts"],
    "compiler/diagnostics.ts": [],
    "compiler/fuse.ts": ["compiler/ir/graph.ts", "backends/llvm/print.ts"],
    "compiler/backend.ts": ["type compiler/ir/graph.ts"],
    "compiler/artifact.ts": ["compiler/ir/graph.ts", "type compiler/plan.ts"],
    "compiler/plan.ts": ["compiler/memory.ts"],
    "compiler/memory.ts": ["compiler/plan.ts"],
    "compiler/trace.ts": ["tests/helper.ts", "compiler/missing.ts"],
    "dsl/index.ts": ["compiler/ir/graph.ts", "compiler/fuse.ts"],
    "models/bamba/index.ts": ["dsl/index.ts", "compiler/ir/graph.ts", "models/llama/index.ts"],
    "models/llama/index.ts": ["dsl/index.ts"],
    "models/auto/index.ts": ["models/bamba/index.ts", "compiler/fuse.ts", "runtime/session.ts", "backends/llvm/print.ts"],
    "backends/llvm/print.ts": ["compiler/ir/graph.ts", "compiler/backend.ts", "ffi/llvm.ts", "backends/cuda/print.ts", "compiler/fuse.ts"],
    "backends/cuda/print.ts": ["backends/units.ts", "backends/c-like/values.ts", "backends/text/block.ts", "package koffi"],
    "backends/c-like/values.ts": ["backends/text/block.ts"],
    "backends/text/block.ts": ["backends/llvm/print.ts"],
    "backends/units.ts": ["compiler/ir/graph.ts", "ffi/llvm.ts"],
    "runtime/session.ts": ["compiler/artifact.ts", "compiler/fuse.ts", "package node:fs", "models/auto/index.ts"],
    "runtime/drivers/cpu.ts": ["ffi/llvm.ts", "package node:fs", "package typescript"],
    "runtime/web/client.ts": ["runtime/web/page/main.ts"],
    "runtime/web/open.ts": [],
    "runtime/web/page/main.ts": ["package svelte", "runtime/web/client.ts", "runtime/web/open.ts"],
    "runtime/hub/resolve.ts": ["package @huggingface/hub"],
    "runtime/text/tokenizer.ts": ["package @huggingface/hub"],
    "runtime/cli/main.ts": ["models/auto/index.ts", "compiler/fuse.ts", "backends/llvm/print.ts"],
    "ffi/llvm.ts": ["package koffi", "compiler/ir/graph.ts"],
    "tests/helper.ts": [],
  };
  for (const [path, imports] of Object.entries(project)) {
    const up = "../".repeat(path.split("/").length - 1);
    const lines = imports.map((line, i) => {
      const [kind, name] = line.includes(" ") ? (line.split(" ") as [string, string]) : ["", line];
      return `import ${kind === "type" ? "type " : ""}x${String(i)} from "${kind === "package" ? name : up + name}";`;
    });
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(
      join(root, path),
      `${lines.join("\n")}\nexport default [${imports.flatMap((l, i) => (l.startsWith("type") ? [] : `x${String(i)}`)).join()}];`,
    );
  }
  for (const name of ["koffi", "@huggingface/hub", "typescript", "svelte"]) {
    mkdirSync(join(root, "node_modules", name), { recursive: true });
    writeFileSync(join(root, "node_modules", name, "package.json"), JSON.stringify({ name, main: "index.js" }));
    writeFileSync(join(root, "node_modules", name, "index.js"), "");
  }
  writeFileSync(
    join(root, "package.json"),
    JSON.stringify({ dependencies: { koffi: "*", "@huggingface/hub": "*" }, devDependencies: { typescript: "*", svelte: "*" } }),
  );
  writeFileSync(join(root, "tsconfig.json"), "{}");
  const found = cruise(root);

  test.each([
    "no-cycles: compiler/memory.ts -> compiler/plan.ts",
    "resolvable: compiler/trace.ts -> ../compiler/missing.ts",
    "ir-stands-alone: compiler/ir/expr.ts -> compiler/fuse.ts",
    "compiler-imports-only-itself: compiler/fuse.ts -> backends/llvm/print.ts",
    "artifact-needs-no-compiler: compiler/artifact.ts -> compiler/plan.ts",
    "dsl-sees-only-the-graph: dsl/index.ts -> compiler/fuse.ts",
    "models-see-only-the-dsl: models/bamba/index.ts -> compiler/ir/graph.ts",
    "models-see-only-the-dsl: models/bamba/index.ts -> models/llama/index.ts",
    "backends-see-the-contract: backends/llvm/print.ts -> compiler/fuse.ts",
    "backends-are-strangers: backends/llvm/print.ts -> backends/cuda/print.ts",
    "backends-are-strangers: backends/text/block.ts -> backends/llvm/print.ts",
    "runtime-sees-only-artifacts: runtime/session.ts -> compiler/fuse.ts",
    "runtime-core-runs-in-a-page: runtime/session.ts -> fs",
    "the-page-speaks-to-a-worker: runtime/web/page/main.ts -> runtime/web/open.ts",
    "the-page-is-nobodys-library: runtime/web/client.ts -> runtime/web/page/main.ts",
    "ffi-stands-alone: ffi/llvm.ts -> compiler/ir/graph.ts",
    "ffi-is-for-toolchains-and-drivers: backends/units.ts -> ffi/llvm.ts",
    "koffi-is-behind-ffi: backends/cuda/print.ts -> node_modules/koffi/index.js",
    "the-hub-is-behind-its-room: runtime/text/tokenizer.ts -> node_modules/@huggingface/hub/index.js",
    "nobody-imports-a-composition-root: runtime/session.ts -> models/auto/index.ts",
    "product-does-not-import-tests: compiler/trace.ts -> tests/helper.ts",
    "product-does-not-import-dev-dependencies: runtime/drivers/cpu.ts -> node_modules/typescript/index.js",
  ])("%s", (violation) => {
    expect(found).toContain(violation);
  });

  test("and let pass what the design allows", () => {
    const allowed = [
      "compiler/ir/expr.ts -> compiler/diagnostics.ts",
      "dsl/index.ts -> compiler/ir/graph.ts",
      "models/bamba/index.ts -> dsl/index.ts",
      "backends/llvm/print.ts -> ffi/llvm.ts",
      "backends/llvm/print.ts -> compiler/backend.ts",
      "backends/cuda/print.ts -> backends/units.ts",
      "backends/cuda/print.ts -> backends/c-like/values.ts",
      "backends/cuda/print.ts -> backends/text/block.ts",
      "backends/c-like/values.ts -> backends/text/block.ts",
      "runtime/session.ts -> compiler/artifact.ts",
      "runtime/drivers/cpu.ts -> ffi/llvm.ts",
      "runtime/drivers/cpu.ts -> fs",
      "ffi/llvm.ts -> node_modules/koffi/index.js",
      "runtime/hub/resolve.ts -> node_modules/@huggingface/hub/index.js",
      "runtime/web/page/main.ts -> node_modules/svelte/index.js",
      "runtime/web/page/main.ts -> runtime/web/client.ts",
      "models/auto/index.ts -> compiler/fuse.ts",
      "runtime/cli/main.ts -> models/auto/index.ts",
    ];
    expect(found.filter((line) => allowed.some((edge) => line.endsWith(`: ${edge}`)) && !line.startsWith("no-cycles"))).toEqual([]);
  });
});

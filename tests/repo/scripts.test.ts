import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { ensureBuilt } from "../../scripts/build.mjs";
import { countReport } from "../../scripts/count.mjs";
import { ensureNode, findLibLLVM, libraryVersion, modulesAreCurrent, SetupError } from "../../scripts/setup.mjs";

const scratch = mkdtempSync(join(tmpdir(), "culm-scripts-"));
afterAll(() => rmSync(scratch, { recursive: true }));

function write(path: string, text: string): void {
  mkdirSync(join(scratch, path, ".."), { recursive: true });
  writeFileSync(join(scratch, path), text);
}

describe("the build", () => {
  const root = scratch;

  test("turns each source into one file, with imports of .js and call sites in .ts, and copies data", async () => {
    write("package.json", '{ "type": "module" }');
    write(
      "dsl/index.ts",
      'import { fail } from "../compiler/fail.ts";\ninterface Long {\n  a: number;\n}\nexport const x: Long = { a: 1 };\n  fail(x.a);\n',
    );
    write("compiler/fail.ts", 'export function fail(a: number): never {\n  throw new Error(`import "./not.ts" ${a}`);\n}\n');
    write("models/tiny/config.json", "{}");
    expect(await ensureBuilt({ root })).toBe("built");
    expect(readFileSync(join(root, "dist/dsl/index.js"), "utf8")).toContain('from "../compiler/fail.js"');
    expect(readFileSync(join(root, "dist/models/tiny/config.json"), "utf8")).toBe("{}");
    const { stderr } = spawnSync(process.execPath, ["--enable-source-maps", join(root, "dist/dsl/index.js")], { encoding: "utf8" });
    expect(stderr).toContain('Error: import "./not.ts" 1');
    expect(stderr).toMatch(/compiler[/\\]fail\.ts:2:9/);
    expect(stderr).toMatch(/dsl[/\\]index\.ts:6:3/);
  });

  test("is done again when a source changes, and only then", async () => {
    expect(await ensureBuilt({ root })).toBe("fresh");
    write("compiler/fail.ts", "export function fail(a: number): void {\n  console.log(a);\n}\n");
    write("dsl/extra.ts", "export const y = 2;\n");
    expect(await ensureBuilt({ root })).toBe("built");
    expect(spawnSync(process.execPath, [join(root, "dist/dsl/index.js")], { encoding: "utf8" }).stdout).toBe("1\n");
    expect(await ensureBuilt({ root })).toBe("fresh");
  });

  test("forgets what is no longer there", async () => {
    rmSync(join(root, "dsl/extra.ts"));
    expect(await ensureBuilt({ root })).toBe("built");
    expect(existsSync(join(root, "dist/dsl/extra.js"))).toBe(false);
    expect(existsSync(join(root, "dist/dsl/extra.js.map"))).toBe(false);
    expect(existsSync(join(root, "dist/dsl/index.js.map"))).toBe(true);
  });

  test("leaves a working build alone when a source does not parse", async () => {
    const good = readFileSync(join(root, "dist/dsl/index.js"), "utf8");
    const before = readFileSync(join(root, "dsl/index.ts"), "utf8");
    write("dsl/index.ts", "const = ;\n");
    await expect(ensureBuilt({ root })).rejects.toThrow(/dsl\/index\.ts:1:6/);
    expect(readFileSync(join(root, "dist/dsl/index.js"), "utf8")).toBe(good);
    write("dsl/index.ts", before);
    expect(await ensureBuilt({ root })).toBe("fresh");
  });

  test("two at once agree", async () => {
    write("dsl/third.ts", "export const z = 3;\n");
    await Promise.all([ensureBuilt({ root }), ensureBuilt({ root })]);
    expect(await ensureBuilt({ root })).toBe("fresh");
    expect(readFileSync(join(root, "dist/dsl/third.js"), "utf8")).toContain("3");
  });
});

describe("the set-up", () => {
  test("refuses an old Node with exit code 2", () => {
    expect(() => ensureNode("20.18.9")).toThrow(SetupError);
    expect(() => ensureNode("18.20.0")).toThrow(/20\.19/);
    expect(() => ensureNode("20.19.0")).not.toThrow();
    expect(() => ensureNode("22.1.0")).not.toThrow();
  });

  test.each([
    ["libLLVM-14.so.1", 14],
    ["libLLVM-14.0.6.so.1", 14],
    ["libLLVM-19.so.1", 19],
    ["libLLVM.so.19.1", 19],
    ["libLLVM.so.22.1", 22],
    ["libLLVM.so", undefined],
    ["libLLVMCore.a", undefined],
    ["libLLVMSPIRVLib.so.14", undefined],
  ])("knows the version of %s", (file, version) => {
    expect(libraryVersion(file)).toBe(version);
  });

  test("finds the libLLVM of this machine, the newest first, and lets CULM_LLVM name another", () => {
    const versions = findLibLLVM().map(({ version }) => version);
    expect(versions.length).toBeGreaterThan(0);
    expect(versions).toEqual(versions.toSorted((a, b) => b - a));
    process.env["CULM_LLVM"] = "elsewhere.so";
    expect(findLibLLVM()).toEqual([{ version: 0, path: "elsewhere.so" }]);
    delete process.env["CULM_LLVM"];
  });

  test("sees whether the installed modules are those of the lock file", () => {
    expect(modulesAreCurrent()).toBe(true);
    expect(modulesAreCurrent(scratch)).toBe(false);
    const lock = (version: string): string =>
      JSON.stringify({ packages: { "": {}, "node_modules/a": { version }, "node_modules/b": { version: "1.0.0", optional: true } } });
    const installed = (version: string): string => JSON.stringify({ packages: { "node_modules/a": { version } } });
    write("package-lock.json", lock("1.2.3"));
    write("node_modules/.package-lock.json", installed("1.2.3"));
    expect(modulesAreCurrent(scratch)).toBe(true);
    write("node_modules/.package-lock.json", installed("1.2.2"));
    expect(modulesAreCurrent(scratch)).toBe(false);
  });
});

describe("the count at the end of .ci/run", () => {
  const report = join(scratch, "report.json");
  const count = (testResults: unknown): ReturnType<typeof countReport> => {
    writeFileSync(report, JSON.stringify({ testResults }));
    return countReport(report);
  };

  test("counts tests, files that did not load, and names what was skipped", () => {
    const tests = ["passed", "passed", "failed", "skipped", "todo"].map((status, i) => ({ fullName: `t${String(i)}`, status }));
    const outcome = count([
      { name: "a", status: "failed", assertionResults: tests },
      { name: "b", status: "failed", assertionResults: [] },
    ]);
    expect(outcome).toMatchObject({ passed: 2, failed: 2 });
    expect(outcome.lines).toEqual(["skipped t3", "skipped t4", "FAILED  t2", "FAILED  b (did not load)"]);
  });

  test("calls a missing report a failure", () => {
    expect(countReport(join(scratch, "none.json"))).toMatchObject({ passed: 0, failed: 1 });
    expect(countReport(undefined)).toMatchObject({ passed: 0, failed: 1 });
  });
});

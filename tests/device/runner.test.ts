import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { projectRoot } from "../../scripts/build.mjs";
import { bundleForDevice } from "../../scripts/device.mjs";
import * as standIn from "./vitest.ts";

// In the project, where a bundle finds koffi.
const folder = mkdtempSync(join(projectRoot, "node_modules", ".culm-device-"));
afterAll(() => rmSync(folder, { recursive: true }));

test("what stands in for vitest runs in order, counts, and says what failed", async () => {
  const ran: string[] = [];
  standIn.describe("outer", () => {
    standIn.beforeAll(() => ran.push("before"));
    standIn.afterAll(() => ran.push("after"));
    standIn.test("first", () => void ran.push("first"));
    standIn.describe("inner", () => {
      standIn.test("fails", () => {
        (standIn.expect as typeof expect)({ a: [1, 2] }).toEqual({ a: [1, 3] });
      });
      standIn.test("late", () => new Promise(() => undefined), 10);
      standIn.test.each([
        ["x", 1],
        ["y", 2],
      ] as const)("row %s", (name: string, n: number) => void ran.push(`${name}${n}`));
    });
    standIn.test("left out", ({ skip }) => skip("because"));
    standIn.test.skipIf(true)("not here", () => void ran.push("never"));
    standIn.test("rejects", () => (standIn.expect as typeof expect)(Promise.reject(new Error("as it should"))).rejects.toThrow("should"));
  });
  standIn.describe("broken", () => {
    standIn.beforeAll(() => {
      throw new Error("no device");
    });
    standIn.test("needs it", () => void ran.push("never"));
  });
  standIn.describe("elsewhere", () => standIn.test("other", () => void ran.push("other")));
  const said: string[] = [];
  expect(await standIn.runTests(/outer|broken/, (line) => said.push(line))).toEqual({ passed: 4, failed: 3, skipped: 3 });
  expect(ran).toEqual(["before", "first", "x1", "y2", "after"]);
  const text = said.join("\n");
  expect(text).toMatch(/^ok {5}outer > first \(\d+ ms\)$/m);
  expect(text).toMatch(/FAILED outer > inner > fails\n.*\n {2}expected \{ a: \[ 1, 3 \] \}\n {2}got {6}\{ a: \[ 1, 2 \] \}/);
  expect(text).toContain("it took more than 10 ms");
  expect(text).toContain("FAILED broken > beforeAll\n  no device");
});

test("the bundle runs the suites without vitest and without a GPU", { timeout: 120_000 }, async () => {
  const file = join(folder, "device-tests.mjs");
  await bundleForDevice("tests", file);
  const run = (...flags: string[]) =>
    spawnSync(process.execPath, [file, ...flags], { cwd: folder, encoding: "utf8", env: { ...process.env, CULM_ROOT: projectRoot } });
  const some = run("--backend", "llvm", "--only", "templates > (rows|gemv)$|golden > all-attention");
  expect(some.stderr).toBe("");
  expect(some.stdout).toMatch(/\n3 passed, 0 failed, \d+ skipped in [\d.]+ s \(llvm\)\n$/);
  expect(some.status).toBe(0);
  // A pattern that nothing matches is a mistake, not a success.
  expect(run("--backend", "llvm", "--only", "nonsense").status).toBe(1);
});

// `node scripts/count.mjs report.json`: the last line of .ci/run, `N passed, N failed`, from vitest's JSON report. Before it, what failed and what
// was skipped, by name. A test file that did not even load counts as one failure, and so does a run that left no report.

import { readFileSync } from "node:fs";

/** @typedef {{ fullName: string, status: string }} Test */
/** @typedef {{ name: string, status: string, assertionResults: Test[] }} TestFile */

/** @param {string | undefined} path @returns {{ passed: number, failed: number, lines: string[] }} */
export function countReport(path) {
  /** @type {{ testResults: TestFile[] }} */
  let report;
  try {
    report = /** @type {{ testResults: TestFile[] }} */ (JSON.parse(readFileSync(path ?? "", "utf8")));
  } catch {
    return { passed: 0, failed: 1, lines: ["FAILED  the test run left no report"] };
  }
  const tests = report.testResults.flatMap((file) => file.assertionResults);
  const failedTests = tests.filter(({ status }) => status === "failed");
  const brokenFiles = report.testResults.filter(
    ({ status, assertionResults }) => status === "failed" && !assertionResults.some((test) => test.status === "failed"),
  );
  const skipped = tests.filter(({ status }) => status !== "passed" && status !== "failed");
  return {
    passed: tests.filter(({ status }) => status === "passed").length,
    failed: failedTests.length + brokenFiles.length,
    lines: [
      ...skipped.map(({ fullName }) => `skipped ${fullName}`),
      ...failedTests.map(({ fullName }) => `FAILED  ${fullName}`),
      ...brokenFiles.map(({ name }) => `FAILED  ${name} (did not load)`),
    ],
  };
}

if (import.meta.url === `file://${process.argv[1] ?? ""}`) {
  const { passed, failed, lines } = countReport(process.argv[2]);
  for (const line of lines) console.log(line);
  console.log(`${String(passed)} passed, ${String(failed)} failed`);
  process.exitCode = failed > 0 ? 1 : 0;
}

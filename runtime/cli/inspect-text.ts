import type { Report } from "./inspect-report.ts";
import { heading, table } from "./table.ts";
import { formatBytes } from "./terminal.ts";

/** What a device must offer; no line where every one does. */
function needs({ features, limits, subgroup }: Report["target"]["requires"]): string {
  const parts = [
    ...features.map((feature) => `feature ${feature}`),
    ...(subgroup === null ? [] : [`subgroups of ${subgroup} lanes`]),
    ...Object.entries(limits).map(([name, value]) => `${name} ${value}`),
  ];
  return parts.length === 0 ? "" : `  needs ${parts.join(", ")}\n`;
}

/** `culm inspect` for people. */
export function printReport(report: Report): string {
  const { name, target, precision, memory, programs, kernels, summary } = report;
  const counts = (of: Readonly<Record<string, number>>): string =>
    Object.entries(of)
      .map(([dtype, count]) => `${dtype} (${count})`)
      .join(", ");
  const lines = [
    heading(`${name}: ${summary}, for ${target.backend} ${target.caps}`),
    `  compiled by culm ${report.compiler} with ${target.toolchain}\n${needs(target.requires)}\n`,
    heading("precision"),
    `  weights ${counts(precision.weights)}; states ${counts(precision.states)}; arithmetic and what is between kernels ${precision.arithmetic}\n\n`,
    heading(`memory of one session: ${formatBytes(memory.total)}`),
    table(
      ["what", "bytes"],
      Object.entries(memory)
        .filter(([what]) => what !== "total")
        .map(([what, bytes]) => [what, formatBytes(bytes)]),
      ["bytes"],
    ),
    "\n",
  ];
  for (const program of programs) {
    const symbols = program.symbols
      .map(({ name: symbol, min, max }) => (min === max ? `${symbol} ${min}` : `${symbol} ${min} to ${max}`))
      .join(", ");
    lines.push(
      heading(`program ${program.name}: ${program.launches} launches, ${formatBytes(program.arenaBytes)} between them; ${symbols}`),
      table(
        ["", "operation", "kernel", "template", "blocks", "bytes", "flops"],
        program.steps.map((step, i) => [
          i,
          step.label,
          `${step.kernel} ${step.name}`,
          step.template,
          step.grid.filter((size, axis) => axis === 0 || size !== "1").join(" x "),
          formatBytes(step.bytes),
          step.flops.toExponential(1),
        ]),
        ["", "bytes", "flops"],
      ),
      "\n",
    );
  }
  lines.push(
    heading(`kernels: ${kernels.length}, ${formatBytes(memory.kernels)}`),
    table(
      ["", "kernel", "template", "configuration", "used", "scratch"],
      kernels.map((kernel, i) => [
        i,
        kernel.name,
        kernel.template,
        Object.entries(kernel.config)
          .map(([key, value]) => `${key} ${value}`)
          .join(", "),
        `${kernel.uses} times`,
        formatBytes(kernel.sharedBytes),
      ]),
      ["", "used", "scratch"],
    ),
  );
  return lines.join("");
}

import { colors } from "./colors.ts";
import type { Compared, Comparison, Divergence, SectionReport } from "../../models/auto/golden/compare.ts";
import type { Suspect } from "../../models/auto/golden/places.ts";
import type { BambaConfig } from "../../models/bamba/config.ts";
import { heading, table } from "./table.ts";

type Config = Pick<BambaConfig, "layerKinds" | "mambaProjBias" | "timeStepLimit">;

/** A comparison as tables, one a section, and what is known of the first difference. */
export function compareText(comparison: Comparison, config: Config, strict: boolean): string {
  const { sections, tolerance, agrees, divergence, ignored } = comparison;
  const tensors = sections.flatMap((section) => section.tensors);
  const differing = tensors.filter((tensor) => !tensor.agrees).length;
  const empty = sections.filter((section) => section.tensors.length === 0 && section.missing.length === 0).map(({ name }) => name);
  return [
    ...sections.filter(({ name }) => !empty.includes(name)).map((section) => sectionText(section, config)),
    ...(empty.length === 0 ? [] : [`skipped, as the file has nothing of it: ${empty.join(", ")}\n`]),
    ...(ignored.length === 0 ? [] : [`not compared: ${grouped(ignored)}\n`]),
    ...(empty.length + ignored.length === 0 ? [] : ["\n"]),
    agrees
      ? `${tensors.length} tensors agree within ${tolerance}\n`
      : `${colors.red(`${differing} of ${tensors.length} tensors differ`)} by more than ${tolerance}\n\n`,
    ...(divergence === null ? [] : [divergenceText(divergence)]),
    ...(agrees || strict || !hasQuirks(config) ? [] : [quirks]),
  ].join("");
}

/** Where Transformers and we part on purpose, which shows with these settings of a model. Source: spec bamba, Q4 and Q7. */
const hasQuirks = ({ mambaProjBias, timeStepLimit }: Config): boolean =>
  mambaProjBias || timeStepLimit[0] > 0 || timeStepLimit[1] < Infinity;
const quirks =
  "\nThis model has a mamba_proj_bias or a time_step_limit, whose treatment by Transformers (padding leaks, single steps have no limit)\nis reproduced with --strict only.\n";

function sectionText({ name, tensors, missing, absent, ignored }: SectionReport, config: Config): string {
  const notes = [
    ...(missing.length > 0 ? [`skipped: the file has no ${missing.join(", ")}`] : []),
    ...(absent.length > 0 ? [`not in the file: ${grouped(absent)}`] : []),
    ...(ignored.length > 0 ? [`not computed: ${grouped(ignored)}`] : []),
  ].map((note) => `  ${colors.dim(note)}\n`);
  if (tensors.length === 0) return `${heading(name)}${notes.join("")}\n`;
  const tokens = tensors.filter(isTokens);
  const floats = tensors.filter((tensor) => !isTokens(tensor));
  const layered = floats.some(({ point }) => point !== null);
  const floatTable = (): string =>
    table(
      ["tensor", ...(layered ? ["layer", "kind"] : []), "max error", "mean error", "largest", ""],
      floats.map((tensor) => [
        short(tensor.name, name),
        ...(layered ? [tensor.point?.name ?? "", kindOf(tensor, config) ?? ""] : []),
        ...(tensor.mismatch === null ? [tensor.maxError, tensor.meanError, tensor.largest].map(scientific) : ["-", "-", "-"]),
        verdict(tensor),
      ]),
      ["max error", "mean error", "largest"],
    );
  const tokenTable = (): string =>
    table(
      ["tokens", "elements", ""],
      tokens.map((tensor) => [short(tensor.name, name), String(tensor.elements), verdict(tensor)]),
    );
  return `${heading(name)}${floats.length > 0 ? floatTable() : ""}${tokens.length > 0 ? tokenTable() : ""}${notes.join("")}\n`;
}

const isTokens = ({ name }: Compared): boolean => name.startsWith("generate.");
const short = (name: string, section: string): string => name.slice(section.length + 1);
const scientific = (value: number): string => (value === 0 ? "0" : value.toExponential(1));
const kindOf = ({ point }: Compared, { layerKinds }: Config): string | null =>
  point === null || point.layer === null ? null : layerKinds[point.layer]!;

function verdict(tensor: Compared): string {
  if (tensor.agrees) return colors.green("agrees");
  if (tensor.mismatch !== null) return colors.red(tensor.mismatch);
  const unlike = tensor.unlike === 0 ? "" : `, ${tensor.unlike} infinite or NaN on one side`;
  return colors.red(`differs${isTokens(tensor) ? `: ${firstOf(tensor)}` : unlike}`);
}

/** As many as a float32 has. */
const digits = (value: number): number => Number(value.toPrecision(7));

/** "at [0, 12]: expected 17, got 4" */
function firstOf({ first }: Compared): string {
  if (first === null) return "";
  const { index, expected, got } = first;
  return `at [${index.join(", ")}]: expected ${digits(expected)}, got ${digits(got)}`;
}

function divergenceText({ tensor, place, layer, inputAgrees }: Divergence): string {
  const first = `${heading("first divergence")}  ${tensor.name} ${tensor.mismatch ?? firstOf(tensor)}\n`;
  if (place === null) return `${first}  The file has nothing between its inputs and its outputs that would tell where.\n`;
  const { point, kind, at, suspects } = place;
  const states = layer.map((entry) => `    ${entry.name} ${entry.agrees ? "agrees" : `differs, by ${scientific(entry.maxError)}`}\n`);
  const width = Math.max(0, ...suspects.map(({ parameter }) => parameter.length));
  const weights = suspects.map(({ parameter, at: site }) => `    ${parameter.padEnd(width)}${placed(site, "  ")}\n`);
  return [
    first,
    `  in ${point.name}${kind === null ? "" : ` (${kind})`}${placed(at, " at ")}\n`,
    ...(inputAgrees ? [] : ["  It is not known whether what comes into it agrees, so the cause may lie before it.\n"]),
    ...(states.length === 0 ? [] : ["  of the same layer\n", ...states]),
    ...(weights.length === 0
      ? []
      : [`  ${inputAgrees ? "weights between what agrees and what differs" : "its own weights"}\n`, ...weights]),
  ].join("");
}

/** "models/bamba/model.ts:253:16" */
const placed = (site: Suspect["at"], before: string): string => (site === null ? "" : `${before}${site.file}:${site.line}:${site.col}`);

/** Names with the same beginning as one: "grad.* (44)". */
function grouped(names: readonly string[]): string {
  const groups = new Map<string, string[]>();
  for (const name of names) {
    const head = name.slice(0, name.indexOf(".") + 1);
    groups.set(head, [...(groups.get(head) ?? []), name]);
  }
  return [...groups].map(([head, list]) => (list.length > 6 ? `${head}* (${list.length})` : list.join(", "))).join(", ");
}

/** A comparison as plain data for --json: no numbers that JSON lacks. */
export function compareReport(comparison: Comparison, config: Config): object {
  const plain = ({ point, first, ...rest }: Compared): object => ({
    ...rest,
    first: first === null ? null : { ...first, expected: jsonNumber(first.expected), got: jsonNumber(first.got) },
    layer: point === null ? null : point.name,
    kind: point === null || point.layer === null ? null : config.layerKinds[point.layer],
  });
  const { divergence } = comparison;
  return {
    ...comparison,
    sections: comparison.sections.map((section) => ({ ...section, tensors: section.tensors.map(plain) })),
    divergence:
      divergence === null
        ? null
        : {
            tensor: divergence.tensor.name,
            layer: divergence.place?.point.name ?? null,
            kind: divergence.place?.kind ?? null,
            at: divergence.place?.at ?? null,
            suspects: divergence.place?.suspects ?? [],
            sameLayer: divergence.layer.map(plain),
            inputAgrees: divergence.inputAgrees,
          },
  };
}

const jsonNumber = (value: number): number | string => (Number.isFinite(value) ? value : String(value));

import Table from "cli-table3";
import { colors } from "./colors.ts";

/** Rows in columns, without lines between them. Columns named in `right` are aligned to the right. */
export function table(head: readonly string[], rows: readonly (readonly (string | number)[])[], right: readonly string[] = []): string {
  const out = new Table({
    head: head.map((title) => colors.dim(title)),
    colAligns: head.map((title) => (right.includes(title) ? "right" : "left")),
    chars: {
      top: "",
      "top-mid": "",
      "top-left": "",
      "top-right": "",
      bottom: "",
      "bottom-mid": "",
      "bottom-left": "",
      "bottom-right": "",
      left: "",
      "left-mid": "",
      mid: "",
      "mid-mid": "",
      right: "",
      "right-mid": "",
      middle: "  ",
    },
    style: { "padding-left": 0, "padding-right": 0, head: [], border: [] },
  });
  for (const row of rows) out.push(row.map(String));
  const indented = out.toString().replaceAll(/^/gm, "  ").replaceAll(/ +$/gm, "");
  return `${indented}\n`;
}

export const heading = (text: string): string => `${colors.bold(text)}\n`;

import { UserError } from "../errors.ts";

/** Rows of one length as one array. @throws UserError for rows of different lengths, and for what is no whole number. */
export function stack(rows: readonly ArrayLike<number>[], what: string): Int32Array {
  const length = rows[0]?.length ?? 0;
  if (!rows.every((row) => row.length === length))
    throw new UserError(`${what}: the rows have different lengths (${rows.map((row) => row.length).join(", ")})`, {
      hint: "pad the shorter ones on the left and give attentionMask; tokenizer.encodeBatch does both",
    });
  const out = new Int32Array(rows.length * length);
  rows.forEach((row, i) => {
    for (let j = 0; j < length; j += 1) {
      if (!Number.isInteger(row[j])) throw new UserError(`${what}: row ${i}, element ${j}: expected a whole number, got ${String(row[j])}`);
      out[i * length + j] = row[j]!;
    }
  });
  return out;
}

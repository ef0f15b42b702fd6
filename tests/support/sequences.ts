import fc from "fast-check";

/** How the tokens of a row lie: sequence ids (compiler/ir/graph.ts) for tests. */
export type Layout = "one" | "left" | "right" | "holes" | "packed" | "mixed";
export const LAYOUTS: readonly Layout[] = ["one", "left", "right", "holes", "packed", "mixed"];
export const layout: fc.Arbitrary<Layout> = fc.constantFrom(...LAYOUTS);

/** Ids of `rows` rows of `length` positions, [rows, length]. `next` gives numbers in [0, 1). */
export function sequenceIds(kind: Layout, rows: number, length: number, next: () => number): Int32Array {
  const ids = new Int32Array(rows * length);
  for (let row = 0; row < rows; row++) {
    const edge = Math.floor(next() * (length + 1));
    for (let j = 0, n = 1; j < length; j++) {
      const breaks = (kind === "packed" || kind === "mixed") && j > 0 && next() < 0.25;
      const padding =
        (kind === "left" && j < edge) || (kind === "right" && j >= edge) || ((kind === "holes" || kind === "mixed") && next() < 0.3);
      // a sequence begins at a token, and the first token of a row is of sequence 1
      if (breaks && !padding && ids.subarray(row * length, row * length + j).some((id) => id > 0)) n++;
      ids[row * length + j] = padding ? -n : n;
    }
  }
  return ids;
}

/** For each row, how many of the positions `past` to `past + seq - 1` there are up to its last token. */
export function tokenEnds(ids: ArrayLike<number>, rows: number, past: number, seq: number): Int32Array {
  const length = ids.length / rows;
  return Int32Array.from({ length: rows }, (_, row) => {
    let end = seq;
    while (end > 0 && ids[row * length + past + end - 1]! <= 0) end--;
    return end;
  });
}

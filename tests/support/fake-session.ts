import type { Session } from "../../runtime/session.ts";

/** A session whose logits are a function of a row's text: what generation makes of a model can be tested without one. Padding is not looked at. */
export function fakeSession(vocabSize: number, logitsOf: (text: readonly number[]) => Float32Array): Session {
  let texts: (readonly number[])[] = [];
  const unused = (): never => {
    throw new Error("not in a fake session");
  };
  const session = {
    capacity: 64,
    maxRows: 64,
    chunk: 64,
    vocabSize,
    get rows() {
      return texts.length;
    },
    get past() {
      return texts[0]?.length ?? 0;
    },
    get next() {
      return Int32Array.from(texts, (text) => {
        const logits = logitsOf(text);
        return logits.indexOf(Math.max(...logits));
      });
    },
    get executor() {
      return unused();
    },
    prefill(ids: Int32Array, { rows = 1 }: { readonly rows?: number } = {}) {
      const length = ids.length / rows;
      texts = Array.from({ length: rows }, (_, row) => [...(texts[row] ?? []), ...ids.subarray(row * length, (row + 1) * length)]);
      return Promise.resolve();
    },
    decode(ids: Int32Array) {
      texts = texts.map((text, row) => [...text, ids[row]!]);
      return Promise.resolve();
    },
    reorder(source: ArrayLike<number>) {
      texts = Array.from(source, (row) => texts[row]!);
      return Promise.resolve();
    },
    reset() {
      texts = [];
      return Promise.resolve();
    },
    logits: (row: number) => Promise.resolve(logitsOf(texts[row]!)),
    setLogits: unused,
    markSeen: unused,
    choose: unused,
    scores: unused,
    snapshot: unused,
    restore: unused,
    lastOf: unused,
    isPadding: unused,
  };
  return session;
}

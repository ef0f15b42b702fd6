/**
 * Layout of matmul weights: rows in panels of `panel` rows, each panel k-major, so that a kernel's lanes read neighbouring rows with one load.
 * Element [row, k] lies at floor(row / panel) * panel * cols + k * panel + row % panel. These are plain loops over typed arrays, in blocks of
 * columns: a row is several KiB long, so walking down a column would touch a new cache line, of the same few cache sets, with every element.
 */

/** Columns in a block: 128 bytes of each row in 16-bit weights, two cache lines. */
const blockColumns = 64;

/**
 * Packs `rows` whole rows of `source` (row-major, [rows, cols]) that start a panel, and fills the rest of the last panel with zeros.
 * @param target ceil(rows / panel) * panel * cols elements of the same width
 */
export function packPanels<A extends Uint16Array | Uint32Array>(source: A, target: A, rows: number, cols: number, panel: number): void {
  const wide = source instanceof Uint16Array && panel % 2 === 0 && cols % 2 === 0 && aligned(source) && aligned(target);
  for (let first = 0; first < rows; first += panel) {
    const count = Math.min(panel, rows - first);
    const from = first * cols;
    if (count < panel) target.fill(0, from, from + panel * cols);
    if (wide && count % 4 === 0) packQuads(words(source), words(target), from / 2, count, cols, panel);
    else packOne(source, target, from, count, cols, panel);
  }
}

const aligned = (a: Uint16Array | Uint32Array): boolean => a.byteOffset % 4 === 0;
const words = (a: Uint16Array | Uint32Array): Uint32Array => new Uint32Array(a.buffer, a.byteOffset, (a.length * a.BYTES_PER_ELEMENT) >> 2);

function packOne(
  source: Uint16Array | Uint32Array,
  target: Uint16Array | Uint32Array,
  from: number,
  count: number,
  cols: number,
  panel: number,
): void {
  for (let k0 = 0; k0 < cols; k0 += blockColumns) {
    const k1 = Math.min(cols, k0 + blockColumns);
    for (let r = 0; r < count; r += 1) {
      let s = from + r * cols + k0;
      let t = from + k0 * panel + r;
      for (let k = k0; k < k1; k += 1) {
        target[t] = source[s]!;
        s += 1;
        t += panel;
      }
    }
  }
}

/** 16-bit elements by twos: a block of 4 rows and 2 columns is four words read and four written. Offsets and sizes in words. */
function packQuads(source: Uint32Array, target: Uint32Array, from: number, count: number, cols: number, panel: number): void {
  const rowWords = cols >> 1;
  const panelWords = panel >> 1;
  const blockWords = blockColumns >> 1;
  for (let w0 = 0; w0 < rowWords; w0 += blockWords) {
    const w1 = Math.min(rowWords, w0 + blockWords);
    for (let r = 0; r < count; r += 4) {
      let s = from + r * rowWords + w0;
      let t = from + w0 * panel + (r >> 1);
      for (let w = w0; w < w1; w += 1) {
        const a = source[s]!;
        const b = source[s + rowWords]!;
        const c = source[s + 2 * rowWords]!;
        const d = source[s + 3 * rowWords]!;
        const u = t + panelWords;
        target[t] = (a & 0xffff) | (b << 16);
        target[t + 1] = (c & 0xffff) | (d << 16);
        target[u] = (a >>> 16) | (b & 0xffff0000);
        target[u + 1] = (c >>> 16) | (d & 0xffff0000);
        s += 1;
        t += panel;
      }
    }
  }
}

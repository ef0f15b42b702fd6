import type { DeviceBuffer } from "../../driver.ts";
import type { ByteCopier } from "./copy-bytes.ts";
import { USAGE } from "./constants.ts";
import type { Work } from "./work.ts";

/** A binding of `vec4<u32>` must cover whole elements, also the last one. */
const unit = 16;

/** A run of bytes that lies in one of a buffer's GPU buffers. */
interface Piece {
  readonly gpu: GPUBuffer;
  readonly offset: number;
  readonly bytes: number;
}

/**
 * Memory on a GPU. A binding, and a GPU buffer, has a largest size, so what is larger lies in several: window w has the bytes from w * windowBytes on,
 * and kernels that read it take one binding for each.
 */
export class WindowedBuffer implements DeviceBuffer {
  readonly bytes: number;
  readonly host = null;
  readonly windows: readonly GPUBuffer[];
  private readonly work: Work;
  private readonly windowBytes: number;
  private readonly copier: ByteCopier;

  constructor(work: Work, windowBytes: number, copier: ByteCopier, bytes: number) {
    this.work = work;
    this.windowBytes = windowBytes;
    this.copier = copier;
    this.bytes = bytes;
    const usage = USAGE.storage | USAGE.copySrc | USAGE.copyDst;
    const sizes = Array.from({ length: Math.max(1, Math.ceil(bytes / windowBytes)) }, (_, w) =>
      Math.max(unit, Math.ceil(Math.min(windowBytes, bytes - w * windowBytes) / unit) * unit),
    );
    this.windows = sizes.map((size) => work.allocate(size, usage));
  }

  /** @throws RangeError for a range that lies outside. */
  pieces(offset: number, bytes: number): readonly Piece[] {
    if (!(offset >= 0 && bytes >= 0 && offset + bytes <= this.bytes))
      throw new RangeError(`bytes ${offset} to ${offset + bytes} of a buffer of ${this.bytes}`);
    const pieces: Piece[] = [];
    for (let at = offset; at < offset + bytes;) {
      const window = Math.floor(at / this.windowBytes);
      const end = Math.min(offset + bytes, (window + 1) * this.windowBytes);
      pieces.push({ gpu: this.windows[window]!, offset: at - window * this.windowBytes, bytes: end - at });
      at = end;
    }
    return pieces;
  }

  write(data: Uint8Array, offset = 0): void {
    let from = 0;
    for (const { gpu, offset: at, bytes } of this.pieces(offset, data.length)) {
      // The API writes whole words; what is left at both ends goes through a kernel.
      const head = Math.min(bytes, (4 - (at % 4)) % 4);
      const body = (bytes - head) & ~3;
      const tail = bytes - head - body;
      if (head > 0) this.copier.write(gpu, at, data.subarray(from, from + head));
      if (body > 0) this.work.write(gpu, at + head, data.subarray(from + head, from + head + body));
      if (tail > 0) this.copier.write(gpu, at + head + body, data.subarray(from + head + body, from + bytes));
      from += bytes;
    }
  }

  async read(offset = 0, bytes = this.bytes - offset): Promise<Uint8Array> {
    const pieces = this.pieces(offset, bytes);
    const words = pieces.map((piece) => {
      const start = piece.offset & ~3;
      return { buffer: piece.gpu, offset: start, bytes: Math.ceil((piece.offset + piece.bytes - start) / 4) * 4 };
    });
    const data = await this.work.read(words);
    // A window's size is a multiple of a word, so only the first word and the last can have bytes of others.
    return data.subarray(offset % 4, (offset % 4) + bytes);
  }

  clear(offset = 0, bytes = this.bytes - offset): void {
    const pieces = this.pieces(offset, bytes);
    // Behind the last byte of a buffer there is nothing but padding.
    const spare = offset + bytes === this.bytes ? (4 - (this.bytes % 4)) % 4 : 0;
    if (offset % 4 !== 0 || (bytes + spare) % 4 !== 0) this.write(new Uint8Array(bytes), offset);
    else
      pieces.forEach(({ gpu, offset: at, bytes: count }, i) =>
        this.work.copying().clearBuffer(gpu, at, count + (i === pieces.length - 1 ? spare : 0)),
      );
  }

  free(): void {
    for (const window of this.windows) window.destroy();
  }
}

/** Copies between buffers of one device; within one, ranges may not overlap. */
export function copyBetween(
  copier: ByteCopier,
  to: WindowedBuffer,
  toOffset: number,
  from: WindowedBuffer,
  fromOffset: number,
  bytes: number,
): void {
  if (to === from && Math.abs(toOffset - fromOffset) < bytes)
    throw new RangeError(`bytes ${fromOffset} and ${toOffset}, ${bytes} each, of one buffer overlap`);
  // Pieces that lie in one window on both sides.
  let done = 0;
  const targets = [...to.pieces(toOffset, bytes)];
  const sources = [...from.pieces(fromOffset, bytes)];
  let [t, s, usedTarget, usedSource] = [0, 0, 0, 0];
  while (done < bytes) {
    const target = targets[t]!;
    const source = sources[s]!;
    const count = Math.min(target.bytes - usedTarget, source.bytes - usedSource);
    copier.copy(target.gpu, target.offset + usedTarget, source.gpu, source.offset + usedSource, count);
    done += count;
    usedTarget += count;
    usedSource += count;
    if (usedTarget === target.bytes) [t, usedTarget] = [t + 1, 0];
    if (usedSource === source.bytes) [s, usedSource] = [s + 1, 0];
  }
}

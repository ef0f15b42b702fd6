import type { DeviceAddress, HostBlock } from "../../../ffi/cuda.ts";
import type { BufferUse, DeviceBuffer } from "../../driver.ts";
import type { Downloads, UploadRing } from "./pinned.ts";
import type { Work } from "./work.ts";

/** What a buffer needs of its device. */
export interface Transfers {
  readonly work: Work;
  readonly uploads: UploadRing;
  /** Memory that is filled in place, by readers that take their time (Device.staging). */
  readonly staging: UploadRing;
  readonly downloads: Downloads;
  /** Forgets a buffer that was freed. */
  readonly freed: (buffer: CudaBuffer) => void;
}

/**
 * Memory on a GPU, zeroed. Results are in pinned memory, at an address that is the same for the GPU: kernels store them there while others work, and a token
 * does not wait for a copy that could only begin after the last kernel.
 */
export class CudaBuffer implements DeviceBuffer {
  readonly bytes: number;
  readonly host = null;
  readonly address: DeviceAddress;
  private readonly transfers: Transfers;
  /** The memory of a result. */
  private readonly pinned: HostBlock | null;
  private gone = false;

  constructor(transfers: Transfers, bytes: number, use: BufferUse) {
    const { work } = transfers;
    this.transfers = transfers;
    this.bytes = bytes;
    // The driver gives no address for nothing.
    const wanted = Math.max(1, bytes);
    this.pinned = use === "result" ? work.call((cuda) => cuda.allocHost(wanted)) : null;
    this.address = this.pinned === null ? work.call((cuda) => cuda.alloc(wanted)) : this.pinned.mapped;
    work.made += 1;
    this.clear();
  }

  /** The address of a range. @throws RangeError when it lies outside. */
  at(offset: number, bytes: number): DeviceAddress {
    if (this.gone) throw new Error(`a buffer of ${this.bytes} bytes is used after it was freed`);
    if (!(offset >= 0 && bytes >= 0 && offset + bytes <= this.bytes))
      throw new RangeError(`bytes ${offset} to ${offset + bytes} of a buffer of ${this.bytes}`);
    return (this.address + BigInt(offset)) as DeviceAddress;
  }

  write(data: Uint8Array, offset = 0): void {
    const to = this.at(offset, data.length);
    const { staging, uploads } = this.transfers;
    if (this.pinned !== null) this.visible(this.pinned, offset, data.length).set(data);
    else if (data.length > 0) (staging.isPiece(data) ? staging : uploads).send(to, data);
  }

  async read(offset = 0, bytes = this.bytes - offset): Promise<Uint8Array> {
    const from = this.at(offset, bytes);
    const { work, downloads } = this.transfers;
    if (this.pinned === null) return downloads.read(from, bytes);
    await work.idle();
    return new Uint8Array(this.pinned.view, offset, bytes).slice();
  }

  clear(offset = 0, bytes = this.bytes - offset): void {
    const to = this.at(offset, bytes);
    const { work } = this.transfers;
    if (this.pinned !== null) this.visible(this.pinned, offset, bytes).fill(0);
    else if (bytes > 0) work.call((cuda) => cuda.fill(to, 0, bytes, work.stream));
  }

  free(): void {
    if (this.gone) return;
    this.gone = true;
    const { work, freed } = this.transfers;
    work.release((cuda) => {
      if (this.pinned === null) cuda.free(this.address);
      else cuda.freeHost(this.pinned);
    });
    freed(this);
  }

  /** A range of pinned memory, when nothing that was called before is still to touch it. */
  private visible({ view }: HostBlock, offset: number, bytes: number): Uint8Array {
    this.transfers.work.synchronize();
    return new Uint8Array(view, offset, bytes);
  }
}

/** Copies between buffers of one device; within one, ranges may not overlap. */
export function copyBetween(work: Work, to: CudaBuffer, toOffset: number, from: CudaBuffer, fromOffset: number, bytes: number): void {
  if (to === from && Math.abs(toOffset - fromOffset) < bytes)
    throw new RangeError(`bytes ${fromOffset} and ${toOffset}, ${bytes} each, of one buffer overlap`);
  const [target, source] = [to.at(toOffset, bytes), from.at(fromOffset, bytes)];
  if (bytes > 0) work.call((cuda) => cuda.copy(target, source, bytes, work.stream));
}

import type { CudaEvent, DeviceAddress, HostBlock } from "../../../ffi/cuda.ts";
import type { Work } from "./work.ts";

/** Twice the blocks in which weights are read, so that one fits beside what was written before. */
const SLOT_BYTES = 16 << 20;
const SLOTS = 4;
/** Pieces begin on an address that any element and a copy engine like. */
const ALIGN = 64;

interface Slot {
  readonly block: HostBlock;
  /** Recorded when the ring leaves the slot: all copies from it are before it. */
  readonly left: CudaEvent;
  waiting: boolean;
}

/**
 * Pinned memory that what is written goes through: the device copies from it while the host fills the next piece, so that weights come at the speed of the
 * disk. Pieces are taken one after the other; a slot is used again when its copies are over, which costs an event for each 16 MiB and nothing for a token's inputs.
 */
export class UploadRing {
  private readonly work: Work;
  private readonly slots: Slot[] = [];
  private slot = 0;
  private used = 0;
  /** What `piece` gave last. */
  private last: Uint8Array | null = null;

  constructor(work: Work) {
    this.work = work;
  }

  /** The most that a piece has. */
  readonly pieceBytes = SLOT_BYTES;

  /** Memory to fill and give to `send`, before another piece is asked for or anything else is sent. @param bytes up to pieceBytes */
  piece(bytes: number): Uint8Array {
    if (this.slots.length === 0) this.enter(0);
    if (this.used + bytes > SLOT_BYTES) this.advance();
    const piece = new Uint8Array(this.slots[this.slot]!.block.view, this.used, bytes);
    this.used = Math.ceil((this.used + bytes) / ALIGN) * ALIGN;
    this.last = piece;
    return piece;
  }

  /** Copies to the device; `data` itself may change when this returns, unless it is the last piece. */
  send(to: DeviceAddress, data: Uint8Array): void {
    if (this.isPiece(data)) {
      this.upload(to, data);
      return;
    }
    for (let at = 0; at < data.length; at += SLOT_BYTES) {
      const piece = this.piece(Math.min(SLOT_BYTES, data.length - at));
      piece.set(data.subarray(at, at + piece.length));
      this.upload((to + BigInt(at)) as DeviceAddress, piece);
    }
  }

  free(): void {
    for (const { block, left } of this.slots)
      this.work.release((cuda) => {
        cuda.freeHost(block);
        cuda.destroyEvent(left);
      });
    this.slots.length = 0;
  }

  /** Whether it is what `piece` gave last, or its beginning. */
  isPiece(data: Uint8Array): boolean {
    const { last } = this;
    return last !== null && data.buffer === last.buffer && data.byteOffset === last.byteOffset && data.length <= last.length;
  }

  private upload(to: DeviceAddress, piece: Uint8Array): void {
    const { address } = this.slots[this.slot]!.block;
    const from = (address + BigInt(piece.byteOffset)) as typeof address;
    this.work.call((cuda) => cuda.upload(to, from, piece.length, this.work.stream));
  }

  private advance(): void {
    const slot = this.slots[this.slot]!;
    this.work.call((cuda) => cuda.record(slot.left, this.work.stream));
    slot.waiting = true;
    this.enter((this.slot + 1) % SLOTS);
  }

  private enter(next: number): void {
    const slot = (this.slots[next] ??= this.work.call((cuda) => ({
      block: cuda.allocHost(SLOT_BYTES),
      left: cuda.createEvent(),
      waiting: false,
    })));
    if (slot.waiting) this.work.call((cuda) => cuda.waitFor(slot.left));
    slot.waiting = false;
    this.slot = next;
    this.used = 0;
  }
}

/** What is read goes through blocks of this size. */
const READ_BYTES = 1 << 20;

/** Pinned memory for reads: a block for each that is under way. */
export class Downloads {
  private readonly work: Work;
  private readonly free_: HostBlock[] = [];

  constructor(work: Work) {
    this.work = work;
    // A token's result is read from the first call on, and reading it makes nothing.
    this.free_.push(this.create());
  }

  /** A copy of device memory as it is after everything that was called before. Up to a mebibyte without holding up the thread. */
  async read(from: DeviceAddress, bytes: number): Promise<Uint8Array> {
    if (bytes > READ_BYTES) return this.readMuch(from, bytes);
    const block = this.free_.pop() ?? this.create();
    if (bytes > 0) this.work.call((cuda) => cuda.download(block.address, from, bytes, this.work.stream));
    await this.work.idle();
    const copy = new Uint8Array(block.view, 0, bytes).slice();
    this.free_.push(block);
    return copy;
  }

  /** In pieces within this call: nothing that is called later may get between them. */
  private readMuch(from: DeviceAddress, bytes: number): Uint8Array {
    const { address, view } = this.free_[0] ?? this.create();
    const result = new Uint8Array(bytes);
    for (let at = 0; at < bytes; at += READ_BYTES) {
      const count = Math.min(READ_BYTES, bytes - at);
      this.work.call((cuda) => cuda.download(address, (from + BigInt(at)) as DeviceAddress, count, this.work.stream));
      this.work.synchronize();
      result.set(new Uint8Array(view, 0, count), at);
    }
    return result;
  }

  free(): void {
    for (const block of this.free_) this.work.release((cuda) => cuda.freeHost(block));
    this.free_.length = 0;
  }

  private create(): HostBlock {
    this.work.made += 1;
    return this.work.call((cuda) => cuda.allocHost(READ_BYTES));
  }
}

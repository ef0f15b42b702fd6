import { CheckpointError, headerLength, parseHeader } from "../safetensors.ts";
import type { HeaderTensor } from "../safetensors.ts";
import { shown } from "../errors.ts";
import type { SourceTensor, WeightSource } from "../weights.ts";
import type { BundleFile } from "./bundle.ts";
import type { BundleFiles } from "./files.ts";

/** Blocks that are fetched ahead of the one that is needed: enough for the connection never to wait, and 40 MB of memory at the usual size. */
const aheadOfWeights = 4;

interface Place extends SourceTensor {
  readonly in: BundleFile;
  /** Of its first byte in the file. */
  readonly offset: number;
  readonly bytes: number;
}

/**
 * The weights of a model on a server. Only headers are read here; tensors are read when they are needed, and the blocks behind them already on their way.
 * @throws CheckpointError naming the file, and the tensor, for anything that the format forbids; as BundleFiles for what cannot be loaded
 */
export async function openWeights(files: BundleFiles, parts: readonly BundleFile[]): Promise<WeightSource> {
  const reader = openReader(files, parts);
  const places = new Map<string, Place>();
  for (const part of parts) {
    const url = files.urlOf(part);
    const prefix = new Uint8Array(Math.min(8, part.bytes));
    await reader.read(part, prefix, 0, 0);
    const length = headerLength(prefix, part.bytes, url);
    const text = new Uint8Array(length);
    await reader.read(part, text, 8, 0);
    const dataAt = 8 + length;
    for (const tensor of parseHeader(text, part.bytes - dataAt, url).tensors) place(places, tensor, part, dataAt, url);
  }
  return {
    path: files.base,
    tensors: places,
    async readInto(name, target, offset) {
      const found = places.get(name);
      if (found === undefined) throw new CheckpointError(`${files.base}: there is no tensor ${shown(name, 120)}`);
      if (!(offset >= 0 && offset + target.length <= found.bytes))
        throw new CheckpointError(
          `${found.file}: tensor ${shown(name, 120)} has ${found.bytes} bytes; bytes ${offset} to ${offset + target.length} were asked for`,
        );
      await reader.read(found.in, target, found.offset + offset, aheadOfWeights);
    },
  };
}

function place(
  places: Map<string, Place>,
  { name, dtype, shape, begin, bytes }: HeaderTensor,
  part: BundleFile,
  dataAt: number,
  url: string,
): void {
  const other = places.get(name);
  if (other !== undefined) throw new CheckpointError(`${url}: tensor ${shown(name, 120)} is in ${other.file} too`);
  places.set(name, { dtype, shape, file: url, in: part, offset: dataAt + begin, bytes });
}

interface Reader {
  /** Fills `target` with the file's bytes from `offset` on, and starts on the `ahead` blocks behind them. */
  read(file: BundleFile, target: Uint8Array, offset: number, ahead: number): Promise<void>;
}

/**
 * Reads the parts as one sequence of blocks. A block stays in memory from when it is asked for until something further on is read: weights lie in the order
 * in which they are loaded, so each is fetched once.
 */
function openReader(files: BundleFiles, parts: readonly BundleFile[]): Reader {
  const { blockBytes } = files;
  const firsts = new Map<BundleFile, number>();
  const sequence = parts.flatMap((file) => {
    firsts.set(
      file,
      [...firsts.keys()].reduce((sum, { blocks }) => sum + blocks.length, 0),
    );
    return file.blocks.map((_, index) => ({ file, index }));
  });
  const held = new Map<number, Promise<Uint8Array>>();

  function start(at: number): Promise<Uint8Array> {
    const known = held.get(at);
    if (known !== undefined) return known;
    const { file, index } = sequence[at]!;
    const block = files.block(file, index);
    // Whoever comes to need it hears of its failure; until then nobody does.
    block.catch(() => undefined);
    held.set(at, block);
    return block;
  }

  return {
    async read(file, target, offset, ahead) {
      for (let done = 0; done < target.length;) {
        const index = Math.floor((offset + done) / blockBytes);
        const at = firsts.get(file)! + index;
        for (const other of held.keys()) if (other < at || other > at + ahead) held.delete(other);
        const wanted = start(at);
        for (let next = at + 1; next <= Math.min(at + ahead, sequence.length - 1); next += 1) void start(next);
        const block = await wanted;
        const from = offset + done - index * blockBytes;
        const piece = block.subarray(from, Math.min(block.length, from + target.length - done));
        target.set(piece, done);
        done += piece.length;
      }
    },
  };
}

/**
 * The GPU's clock around whole passes. The driver times kernels in a pass each, which keeps them apart; a token's kernels run in one pass, and how long
 * that takes is what counts. So every compute pass that the device records from here on writes its begin and its end to one place.
 */
export interface PassClock {
  /** Nanoseconds of the pass that `run` submits, which must be one: the median of `runs` of them, after as many as bring an idle GPU's clocks up. */
  median(run: Run, runs: number): Promise<number>;
}

type Run = () => void | Promise<void>;

/** An idle GPU takes some tenths of a second of work to run at its full clock rate. */
const WARM_MILLISECONDS = 400;

const USAGE = { mapRead: 0x1, copySrc: 0x4, copyDst: 0x8, queryResolve: 0x200 } as const;

/** Passes that ask for timestamps themselves keep theirs. */
export function openPassClock(gpu: GPUDevice): PassClock {
  const querySet = gpu.createQuerySet({ type: "timestamp", count: 2 });
  const resolved = gpu.createBuffer({ size: 16, usage: USAGE.queryResolve | USAGE.copySrc });
  const staging = gpu.createBuffer({ size: 16, usage: USAGE.mapRead | USAGE.copyDst });
  const createEncoder = gpu.createCommandEncoder.bind(gpu);
  gpu.createCommandEncoder = (descriptor) => {
    const encoder = createEncoder(descriptor);
    const beginPass = encoder.beginComputePass.bind(encoder);
    encoder.beginComputePass = (pass = {}) =>
      beginPass({ timestampWrites: { querySet, beginningOfPassWriteIndex: 0, endOfPassWriteIndex: 1 }, ...pass });
    return encoder;
  };
  const time = async (run: Run): Promise<number> => {
    await run();
    const encoder = createEncoder();
    encoder.resolveQuerySet(querySet, 0, 2, resolved, 0);
    encoder.copyBufferToBuffer(resolved, 0, staging, 0, 16);
    gpu.queue.submit([encoder.finish()]);
    await staging.mapAsync(1);
    const [begin, end] = new BigUint64Array(staging.getMappedRange().slice(0));
    staging.unmap();
    return Number(end! - begin!);
  };
  return {
    async median(run, runs) {
      const started = performance.now();
      do await time(run);
      while (performance.now() - started < WARM_MILLISECONDS);
      const times: number[] = [];
      for (let i = 0; i < runs; i += 1) times.push(await time(run));
      return median(times);
    },
  };
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1]!;
}

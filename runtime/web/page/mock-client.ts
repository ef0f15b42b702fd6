import { ModelError } from "../client.ts";
import type { ClientOptions, ModelClient } from "../client.ts";
import type { ModelFacts, Profile, Progress } from "../protocol.ts";

/**
 * A client without a worker, for work on the page: `?mock`, with `mock=slow` for slow loading, `fail` for a model that cannot be loaded, `lost` for a
 * device that is lost while it writes, `untimed` for one that cannot time kernels. It is in no build.
 */
export function mockConnector(params: URLSearchParams): (options: ClientOptions) => ModelClient {
  const mode = params.get("mock");
  return ({ onLost, onNote }) => {
    let stop = new AbortController();
    const stopped = (): boolean => stop.signal.aborted;
    let opened = 0;
    const load = async (onProgress?: (progress: Progress) => void): Promise<ModelFacts> => {
      stop = new AbortController();
      opened += 1;
      const total = 14_900_000;
      const report = (stage: Progress["stage"], part: number): void =>
        onProgress?.({ stage, bytes: Math.round(total * part), total, cached: 0, bytesPerSecond: part > 0.05 ? 9.4e6 : 0 });
      report("adapter", 0);
      await pause(80);
      report("kernels", 0.01);
      await pause(120);
      if (mode === "fail" && opened === 1)
        throw new ModelError({
          kind: "user",
          message:
            "the graphics processor offers too little: maxStorageBufferBindingSize: 67108864 offered, 134217728 needed (variant base)\nmaxComputeInvocationsPerWorkgroup: 128 offered, 256 needed (variant base)",
          hint: "use another browser or device, or compile the model for this one: culm compile --target wgsl",
        });
      const steps = mode === "slow" ? 400 : 6;
      for (let i = 0; i <= steps; i++) {
        if (stopped()) throw new ModelError({ kind: "aborted", message: "stopped" });
        report("weights", 0.02 + (0.98 * i) / steps);
        await pause(mode === "slow" ? 100 : 20);
      }
      onNote?.("The browser has no room to keep the model: it is loaded from the server again next time.");
      return { ...facts, timing: mode !== "untimed" };
    };
    return {
      open: (_url, handlers) => load(handlers?.onProgress),
      reopen: (handlers) => load(handlers?.onProgress),
      async generate(_prompt, settings, handlers) {
        stop = new AbortController();
        const most = settings?.maxNewTokens ?? 64;
        const words = Array.from({ length: most }, (_, i) => story[i % story.length]!);
        const started = performance.now();
        await pause(60);
        const first = performance.now() - started;
        let count = 0;
        let tokensPerSecond = 0;
        for (const text of words) {
          if (stopped()) break;
          count += 1;
          tokensPerSecond = count < 2 ? 0 : ((count - 1) * 1000) / (performance.now() - started - first);
          handlers?.onToken?.({ text, count, first, tokensPerSecond });
          if (mode === "lost" && opened === 1 && count === 20) {
            onLost?.("the graphics processor was lost: the driver was reset");
            throw new ModelError({ kind: "lost", message: "the graphics processor was lost: the driver was reset" });
          }
          await pause(12);
        }
        const reason = stopped() ? "aborted" : "length";
        const figures = { promptTokens: 6, newTokens: count, first, total: performance.now() - started, tokensPerSecond };
        return { reason, rest: "", ids: [], seed: settings?.seed === undefined ? 4711 : Number(settings.seed), warnings: [], ...figures };
      },
      stop() {
        stop.abort();
      },
      async profile() {
        await pause(300);
        return profile;
      },
      close: () => Promise.resolve(),
    };
  };
}

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

const story =
  " the world, and we were all in a state of mind.  We had a good deal of time, and a good dinner, and had always walked about it, and had a little room to sit in; but we came to an inn again, with a great deal of drink, and were left on the summit of the hill.\n\n“Come!” I answered.  “I hope you will not do it.  Nothing is right.  I should think I should be a good man.”".match(
    /\s*\S{1,5}/g,
  )!;

const facts: ModelFacts = {
  name: "bamba-tiny",
  adapter: {
    name: "intel xe-2lpg",
    vendor: "intel",
    architecture: "xe-2lpg",
    device: "",
    description: "",
    features: ["shader-f16", "subgroups", "timestamp-query", "depth32float-stencil8", "texture-compression-bc"],
    limits: {
      maxStorageBufferBindingSize: 2 ** 31 - 4,
      maxBufferSize: 2 ** 32,
      maxComputeInvocationsPerWorkgroup: 1024,
      maxComputeWorkgroupStorageSize: 32768,
      maxStorageBuffersPerShaderStage: 16,
      maxComputeWorkgroupsPerDimension: 65535,
    },
    subgroupMinSize: 16,
    subgroupMaxSize: 32,
  },
  caps: "large-sg32-f16",
  requires: {
    features: ["subgroups", "shader-f16"],
    limits: { maxStorageBufferBindingSize: 2 ** 30, maxComputeWorkgroupStorageSize: 32768 },
    subgroup: 32,
  },
  compiler: "0.1.0",
  parameters: 6_825_584,
  dtype: "bf16",
  vocabSize: 4096,
  maxLength: 2048,
  weightBytes: 13_774_048,
  stateBytes: 8_350_000,
  launches: 38,
  bytes: 14_900_000,
  downloaded: 14_900_000,
  time: 1840,
  chat: false,
  timing: true,
  settings: {},
};

type Step = Profile["steps"][number];

/** The kernels of a layer, with what they read and write in bytes. */
function layer(i: number): readonly Step[] {
  const step = (name: string, kernel: string, template: string, microseconds: number, bytes: number): Step => ({
    label: name.replaceAll("L.", `layers.${i}.`),
    kernel,
    template,
    milliseconds: microseconds / 1000,
    bytes,
    flops: bytes,
  });
  const mixer =
    i === 3
      ? [
          step("L.self_attn.k_proj+L.self_attn.v_proj+L.self_attn.q_proj", "gemm", "gemv", 9.1, 266_000),
          step("L.attention", "cache_write", "rows", 3.2, 2360),
          step("L.attention", "attention", "attention-decode", 31, 237_000),
          step("L.self_attn.o_proj", "gemm", "gemv", 7.4, 134_000),
        ]
      : [
          step("L.mamba.in_proj", "gemm", "gemv", 14.2, 604_000),
          step("L.mamba.conv1d", "conv1d", "conv1d", 4.1, 34_100),
          step("L.ssdScan", "ssd_step", "rows", 10.8, 272_000),
          step("L.mamba.out_proj", "gemm", "gemv", 9.6, 272_000),
        ];
  return [
    ...mixer,
    step("L.feed_forward.gate_proj+L.feed_forward.up_proj", "gemm2", "gemv", 13.5, 528_000),
    step("L.feed_forward.down_proj", "gemm", "gemv", 8.9, 266_000),
  ];
}

const profile: Profile = {
  past: 64,
  steps: [
    ...[0, 1, 2, 3, 4, 5].flatMap(layer),
    { label: "matmulT", kernel: "gemm", template: "gemv", milliseconds: 0.041, bytes: 2_120_000, flops: 2.1e6 },
    { label: "argmax", kernel: "reduce_argmax", template: "rows", milliseconds: 0.006, bytes: 16_400, flops: 4100 },
  ],
};

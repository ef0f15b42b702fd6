import type { Kernel, KernelModule } from "../../driver.ts";
import { UserError } from "../../errors.ts";
import { COMPUTE_STAGE } from "./constants.ts";
import type { KernelsFile, WgslKernel } from "./kernels-file.ts";
import type { Work } from "./work.ts";

/** A kernel that is ready to be launched. */
export class WebgpuKernel implements Kernel {
  readonly entry: string;
  readonly pipeline: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
  readonly params: WgslKernel["params"];
  readonly symbols: number;

  constructor({ entry, params, symbols }: WgslKernel, pipeline: GPUComputePipeline, layout: GPUBindGroupLayout) {
    this.entry = entry;
    this.params = params;
    this.symbols = symbols;
    this.pipeline = pipeline;
    this.layout = layout;
  }
}

/** Bytes of a kernel's symbols in a uniform buffer: array<vec4<i32>>. */
export const symbolBytes = (symbols: number): number => Math.ceil(symbols / 4) * 16;

/**
 * Compiles all kernels, off this thread and at the same time.
 * @throws UserError with the compiler's message and the line when one is refused.
 */
export async function loadKernels(work: Work, file: KernelsFile, onDone: () => void = () => undefined): Promise<KernelModule> {
  const layouts = new Map<string, { readonly group: GPUBindGroupLayout; readonly pipeline: GPUPipelineLayout }>();
  const layoutOf = (kernel: WgslKernel): { readonly group: GPUBindGroupLayout; readonly pipeline: GPUPipelineLayout } => {
    const types = bindingTypes(kernel);
    const key = types.join(" ");
    const known = layouts.get(key);
    if (known !== undefined) return known;
    const group = work.gpu.createBindGroupLayout({
      entries: types.map((type, binding) => ({ binding, visibility: COMPUTE_STAGE, buffer: { type } })),
    });
    const made = { group, pipeline: work.gpu.createPipelineLayout({ bindGroupLayouts: [group] }) };
    layouts.set(key, made);
    return made;
  };
  work.check();
  const kernels = await work.settled(
    Promise.all(
      file.kernels.map(async (kernel) => {
        const layout = layoutOf(kernel);
        const pipeline = await compile(work, kernel, layout.pipeline);
        onDone();
        return new WebgpuKernel(kernel, pipeline, layout.group);
      }),
    ),
  );
  const byEntry = new Map(kernels.map((kernel) => [kernel.entry, kernel]));
  return {
    kernel: (entry) => {
      const kernel = byEntry.get(entry);
      if (kernel === undefined) throw new UserError(`kernels.bin: there is no kernel ${entry}`, { hint: "compile the model again" });
      return kernel;
    },
    free: () => byEntry.clear(),
  };
}

function bindingTypes({ params, symbols }: WgslKernel): readonly GPUBufferBindingType[] {
  const types = params.flatMap(({ access, windows }) =>
    Array.from({ length: windows }, (): GPUBufferBindingType => (access === "read" ? "read-only-storage" : "storage")),
  );
  return symbols > 0 ? [...types, "uniform"] : types;
}

async function compile(work: Work, { entry, source }: WgslKernel, layout: GPUPipelineLayout): Promise<GPUComputePipeline> {
  const { gpu } = work;
  work.counts.pipelines += 1;
  gpu.pushErrorScope("validation");
  const module = gpu.createShaderModule({ code: source, label: entry });
  const refused = gpu.popErrorScope();
  const building = gpu.createComputePipelineAsync({ label: entry, layout, compute: { module, entryPoint: entry } });
  // The reason is in the module, if the module was refused; then the pipeline's own failure says nothing.
  building.catch(() => undefined);
  if ((await refused) !== null) {
    const { messages } = await module.getCompilationInfo();
    const first = messages.find(({ type }) => type === "error");
    const line = first === undefined ? "" : (source.split("\n")[first.lineNum - 1]?.trim() ?? "");
    throw refusal(
      work,
      entry,
      first === undefined ? "no reason given" : `line ${first.lineNum}: ${first.message.split("\n")[0]!}: ${line}`,
    );
  }
  try {
    return await building;
  } catch (cause) {
    work.check();
    throw refusal(work, entry, cause instanceof Error ? cause.message : String(cause));
  }
}

const refusal = (work: Work, entry: string, why: string): UserError =>
  new UserError(`${work.name} cannot compile kernel ${entry}: ${why}`, {
    hint: "compile the model for fewer features, such as --target wgsl:base; if that does not help, this is a bug of culm",
  });

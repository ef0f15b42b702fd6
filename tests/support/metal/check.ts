import type { MetalSource } from "../../../backends/metal/print.ts";
import { complaintsOf, headers } from "./clang.ts";
import { forCpp, forOpencl } from "./prepare.ts";

const STRICT = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-attributes", "-Wno-unused-parameter"];

/** C++14 with address spaces as clang's own attribute: types, conversions, names, and all that is not in the stand-in's headers. */
const CPP = ["-x", "c++", "-std=c++14", "-nostdinc", "-nostdinc++", `-I${headers.cpp}`, ...STRICT, "-Wno-c++17-extensions"];

/** C++ for OpenCL without a generic address space: pointers keep their spaces in casts too. */
const OPENCL = [
  ...["-x", "clcpp", "-cl-std=clc++2021", "-target", "spir64", "-Xclang", "-finclude-default-header", "-Xclang"],
  `-cl-ext=${["__opencl_c_generic_address_space", "__opencl_c_pipes", "__opencl_c_device_enqueue", "cl_khr_fp64", "__opencl_c_fp64"].map((e) => `-${e}`).join(",")}`,
  `-I${headers.opencl}`,
  ...STRICT,
];

/** Kernels in one text, each in a namespace of its own: reading the headers takes longer than reading a kernel. */
const together = (texts: readonly string[]): string =>
  ["#include <metal_stdlib>", "#include <metal_simdgroup_matrix>", ...texts.map((text, i) => `namespace k${i} {\n${text}}`), ""].join("\n");

/** What is wrong with kernels as C++ and as C++ for OpenCL; nothing when both take them without a warning. */
export function faultsOf(sources: readonly MetalSource[]): string[] {
  const found: string[] = [];
  for (let i = 0; i < sources.length; i += 50) {
    const some = sources.slice(i, i + 50);
    for (const [text, args] of [
      [together(some.map(forCpp)), CPP],
      [together(some.map(forOpencl)), OPENCL],
    ] as const) {
      const complaint = complaintsOf(text, args);
      if (complaint !== null) found.push(complaint);
    }
  }
  return found;
}

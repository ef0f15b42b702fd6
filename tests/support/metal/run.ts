import { spawnSync } from "node:child_process";
import { closeSync, mkdtempSync, openSync, readFileSync, readSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { MetalSource } from "../../../backends/metal/print.ts";
import { built, headers, linked } from "./clang.ts";
import { libraryText } from "./prepare.ts";

/** Kernels on the CPU: the same text in builds that find different mistakes, run by a program that plays the threads of a GPU (host/). */

/** "plain": nothing is looked for; "races": ThreadSanitizer; "memory": bounds, alignment and undefined behaviour. */
export type Build = "plain" | "races" | "memory";

const SANITIZERS: Readonly<Record<Build, { readonly kernel: readonly string[]; readonly host: readonly string[] }>> = {
  // a loop that cannot be written out as its pragma says is a warning, which Apple's compiler has too
  plain: { kernel: ["-O2", "-Werror"], host: [] },
  races: { kernel: ["-O1", "-g", "-fsanitize=thread"], host: ["-DSTANDIN_TSAN", "-fsanitize=thread"] },
  memory: {
    kernel: ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize=function,vptr", "-fno-sanitize-recover=all"],
    host: ["-DSTANDIN_ASAN", "-fsanitize=address,undefined"],
  },
};

/** Halves are not computed in floats, nor are products and sums fused, and no instruction is used that treats bf16 in its own way. */
const NUMBERS = ["-march=x86-64-v3", "-ffp-contract=off", "-fno-strict-aliasing", "-Xclang", "-ffloat16-excess-precision=none"];

const LIBRARY = [
  ...[
    "-x",
    "c++",
    "-std=c++14",
    "-nostdinc",
    "-nostdinc++",
    "-shared",
    "-fPIC",
    "-rtlib=compiler-rt",
    "-DSTANDIN_FLAT",
    `-I${headers.cpp}`,
  ],
  ...["-Wno-unknown-attributes", "-Wno-c++17-extensions", ...NUMBERS],
];

export const libraryOf = (source: MetalSource, build: Build): string =>
  built(libraryText(source), [...LIBRARY, ...SANITIZERS[build].kernel], source.text);

const hostFolder = fileURLToPath(new URL("./host/", import.meta.url));
const hosts = new Map<Build, string>();

/** The program that runs jobs. Its own code is not instrumented: sanitizers are linked to it for the libraries' sake. */
function hostFor(build: Build): string {
  const known = hosts.get(build);
  if (known !== undefined) return known;
  const read = (name: string): string => readFileSync(join(hostFolder, name), "utf8");
  const text = [read("threads.h"), read("threads.cpp"), read("main.cpp")].join("\n").replaceAll(/#pragma once|#include "threads.h"/g, "");
  const define = SANITIZERS[build].host.filter((a) => a.startsWith("-D"));
  const object = built(text, ["-std=c++17", "-O2", "-c", ...define], `the host for ${build}`);
  const link = SANITIZERS[build].host.filter((a) => !a.startsWith("-D"));
  const host = linked(object, ["-rdynamic", ...link]);
  hosts.set(build, host);
  return host;
}

export interface Launch {
  readonly source: MetalSource;
  readonly threads: number;
  readonly grid: readonly [number, number, number];
  /** Buffers by number, each from an offset in bytes on. */
  readonly args: readonly (readonly [buffer: number, offset: number])[];
  readonly symbols: readonly number[];
  /** Function constants that the pipeline is made with: numbers of symbols, and values. */
  readonly fixed?: readonly (readonly [symbol: number, value: number])[];
}

export interface Job {
  readonly build: Build;
  /** 0: threads run in order, 1: backwards, more: shuffled. */
  readonly order: number;
  readonly launches: readonly Launch[];
}

const counted = (values: readonly number[]): string => [values.length, ...values].join(" ");

/** The job as the host reads it. @param memory the file with the buffers; @param buffers offset and size of each */
function jobText(job: Job, memory: string, mapped: boolean, buffers: readonly (readonly [offset: number, bytes: number])[]): string {
  const libraries = [...new Set(job.launches.map(({ source }) => libraryOf(source, job.build)))];
  return [
    `${mapped ? "mapped" : "memory"} ${memory}`,
    `order ${job.order}`,
    ...buffers.map(([offset, bytes]) => `buffer ${offset} ${bytes}`),
    ...libraries.map((path) => `library ${path}`),
    ...job.launches.map(({ source, threads, grid, args, symbols, fixed = [] }) =>
      [
        `run ${libraries.indexOf(libraryOf(source, job.build))} ${threads} ${grid.join(" ")}`,
        counted(source.bindings.threadgroup.map((a) => a.bytes)),
        counted(fixed.flat()),
        counted(args.flat()),
        counted(symbols),
      ].join(" "),
    ),
    "",
  ].join("\n");
}

/** Runs a job. @throws Error with what the host or a sanitizer found */
function runHost(build: Build, text: string): void {
  const at = mkdtempSync(join(tmpdir(), "culm-job-"));
  try {
    const file = join(at, "job");
    writeFileSync(file, text);
    const { status, signal, stderr } = spawnSync(hostFor(build), [file], {
      encoding: "utf8",
      maxBuffer: 1 << 28,
      env: {
        ...process.env,
        ASAN_OPTIONS: "detect_leaks=0:detect_stack_use_after_return=0",
        TSAN_OPTIONS: "exitcode=66:report_signal_unsafe=0",
        UBSAN_OPTIONS: "print_stacktrace=0",
      },
    });
    if (status !== 0 || stderr !== "") throw new Error(`${build}: ${signal ?? `exit code ${status}`}\n${stderr.slice(0, 4000)}`);
  } finally {
    rmSync(at, { recursive: true });
  }
}

const aligned = (n: number): number => Math.ceil(n / 64) * 64;

/** Runs a job on host memory, and leaves the results there. Each buffer has memory of its own: what lies past its end is found. */
export function runJob(job: Job, buffers: readonly Uint8Array[]): void {
  const at = mkdtempSync(join(tmpdir(), "culm-memory-"));
  try {
    const file = join(at, "memory");
    const places: [number, number][] = [];
    let end = 0;
    for (const { byteLength } of buffers) {
      places.push([end, byteLength]);
      end = aligned(end + byteLength);
    }
    const fd = openSync(file, "w+");
    try {
      for (const [i, b] of buffers.entries()) writeSync(fd, b, 0, b.byteLength, places[i]![0]);
      writeSync(fd, new Uint8Array(1), 0, 1, end);
      runHost(job.build, jobText(job, file, false, places));
      for (const [i, b] of buffers.entries()) readSync(fd, b, 0, b.byteLength, places[i]![0]);
    } finally {
      closeSync(fd);
    }
  } finally {
    rmSync(at, { recursive: true });
  }
}

/** Runs a job whose buffers are parts of a file, which is their memory. */
export const runMapped = (job: Job, file: string, buffers: readonly (readonly [offset: number, bytes: number])[]): void => {
  runHost(job.build, jobText(job, file, true, buffers));
};

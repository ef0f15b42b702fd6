import { createHash } from "node:crypto";

/** A kernel's entry by what is in it, so that equal kernels have equal names and different ones never collide in one artifact. @param text the kernel without its name */
export function entryName(kernel: string, text: string): string {
  const hash = createHash("sha256").update(text).digest("hex").slice(0, 12);
  return `${kernel.replace(/[^A-Za-z0-9_]/g, "_")}_${hash}`;
}

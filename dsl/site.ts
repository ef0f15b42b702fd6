import type { Site } from "../compiler/diagnostics.ts";

/**
 * Directory that holds dsl/, models/, ...: source paths below it are shown relative to it. The built copy lies in dist/ of the same project; in a bundle
 * this file's place says nothing.
 */
const projectRoot = /^file:\/\/(.*\/)dsl\/site\.[jt]s$/.exec(decodeURIComponent(import.meta.url))?.[1]?.replace(/\/dist\/$/, "/") ?? "/";

/**
 * Where `called` was called from. `called` is the function of the language that the model's author wrote: V8 drops it and everything above it from
 * the trace, so the first frame left is the author's, whichever bundle or source map the code went through.
 */
export function callSite(called: (...args: never[]) => unknown): Site | null {
  const holder: { stack?: string } = {};
  const limit = Error.stackTraceLimit;
  Error.stackTraceLimit = 1;
  Error.captureStackTrace(holder, called);
  const stack = holder.stack ?? "";
  Error.stackTraceLimit = limit;
  return parseFrame(stack.slice(stack.lastIndexOf("\n    at ") + 1));
}

/** One line of a stack trace, "at name (file:line:col)" or "at file:line:col", as a place relative to the project. */
export function parseFrame(frame: string): Site | null {
  const line = frame.trim();
  const place = line.endsWith(")") ? line.slice(line.indexOf(" (") + 2, -1) : line.replace(/^at (async )?/, "");
  const match = /^(.*?)(?:\?[^/:]*)?:(\d+):(\d+)$/.exec(place);
  if (!match) return null;
  const [, file, row, col] = match;
  return { file: relative(file!.startsWith("file://") ? decodeURIComponent(file!.slice(7)) : file!), line: Number(row), col: Number(col) };
}

function relative(file: string): string {
  const here = typeof process === "undefined" ? "/" : `${process.cwd()}/`;
  for (const root of [projectRoot, here]) if (root !== "/" && file.startsWith(root)) return file.slice(root.length);
  return file;
}

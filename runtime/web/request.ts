import { UserError } from "../errors.ts";
import type { Platform } from "./platform.ts";

/** Bytes `start` to `end - 1` of a file of `total` bytes. */
export interface ByteRange {
  readonly start: number;
  readonly end: number;
  readonly total: number;
}

/** A failure that the next try may not have: the connection, a server that is busy. */
class TransientError extends Error {}

/** The answer to a range is the whole file, because the server has no ranges. The body has not been read. */
export interface WholeAnswer {
  readonly whole: Response;
}

export interface RequestOptions {
  readonly signal: AbortSignal;
  /** Called with the bytes that have arrived since the last call; below zero when a try has failed and they do not count. */
  readonly onBytes?: (bytes: number) => void;
  /** Asks past the browser's own HTTP cache, which may hold an older file. */
  readonly fresh?: boolean;
}

/** How patient requests are; a test is less so. */
export interface Patience {
  /** Tries, the first one included. */
  readonly tries: number;
  /** Milliseconds before the second try; each further wait is twice as long. */
  readonly wait: number;
  /** Milliseconds without a byte after which a try has failed. */
  readonly stall: number;
}

export const patience: Patience = { tries: 4, wait: 500, stall: 30_000 };

/**
 * A part of a file. A range that is the whole file is asked for without one, so that any server can answer.
 * @throws UserError for what no further try mends: an answer other than success, or a file of another size than `total`; and when all tries have failed.
 */
export function requestRange(
  platform: Platform,
  url: string,
  range: ByteRange,
  options: RequestOptions,
  { tries, wait, stall }: Patience = patience,
): Promise<Uint8Array<ArrayBuffer> | WholeAnswer> {
  const all = range.start === 0 && range.end === range.total;
  const headers: Record<string, string> = all ? {} : { range: `bytes=${range.start}-${range.end - 1}` };
  return retrying(url, { tries, wait }, options, (attempt) =>
    watched(stall, options, attempt, async (watch) => {
      const response = await send(platform, url, headers, options.fresh === true ? "reload" : "default", watch.signal);
      if (!all && response.status === 200) return { whole: response };
      if (!all) checkPartial(url, response, range);
      else checkLength(url, response, range.total);
      return readBody(url, response, range.end - range.start, watch);
    }),
  );
}

/** Reads the body of a WholeAnswer: `total` bytes. @throws as requestRange, but with a single try. */
export function readWhole(
  url: string,
  response: Response,
  total: number,
  options: RequestOptions,
  { stall }: Patience = patience,
): Promise<Uint8Array<ArrayBuffer>> {
  checkLength(url, response, total);
  return retrying(url, { tries: 1, wait: 0 }, options, (attempt) =>
    watched(stall, options, attempt, (watch) => readBody(url, response, total, watch)),
  );
}

/** A small file of unknown size, as text. @throws UserError as requestRange, and above `most` bytes. */
export async function requestText(
  platform: Platform,
  url: string,
  most: number,
  options: RequestOptions,
  { tries, wait, stall }: Patience = patience,
): Promise<string> {
  const bytes = await retrying(url, { tries, wait }, options, (attempt) =>
    watched(stall, options, attempt, async (watch) => {
      // It names what all other files must be, so it has to be the newest.
      const response = await send(platform, url, {}, options.fresh === true ? "reload" : "no-cache", watch.signal);
      const pieces: Uint8Array[] = [];
      let length = 0;
      for await (const piece of piecesOf(response, watch)) {
        length += piece.length;
        if (length > most) throw new UserError(`${url}: has more than ${most} bytes, which is no model.json`);
        pieces.push(piece);
      }
      const whole = new Uint8Array(length);
      let at = 0;
      for (const piece of pieces) {
        whole.set(piece, at);
        at += piece.length;
      }
      return whole;
    }),
  );
  return new TextDecoder().decode(bytes);
}

/** One try: its own signal, which is aborted with the caller's or when nothing arrives for too long, and the bytes that it has told of. */
interface Watch {
  readonly signal: AbortSignal;
  arrived(bytes: number): void;
}

interface Attempt {
  /** Bytes that this try has told of. */
  bytes: number;
}

async function watched<T>(
  stall: number,
  { signal, onBytes }: RequestOptions,
  attempt: Attempt,
  body: (watch: Watch) => Promise<T>,
): Promise<T> {
  signal.throwIfAborted();
  const own = new AbortController();
  const stop = (): void => own.abort(signal.reason);
  signal.addEventListener("abort", stop);
  const expire = (): void => own.abort(new TransientError(`no answer for ${stall / 1000} s`));
  let timer = setTimeout(expire, stall);
  try {
    return await body({
      signal: own.signal,
      arrived(bytes) {
        clearTimeout(timer);
        timer = setTimeout(expire, stall);
        attempt.bytes += bytes;
        onBytes?.(bytes);
      },
    });
  } catch (error) {
    // However fetch puts it, the reason for the abort is what happened.
    throw own.signal.aborted ? (own.signal.reason as Error) : error;
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", stop);
  }
}

async function retrying<T>(
  url: string,
  { tries, wait }: Pick<Patience, "tries" | "wait">,
  { signal, onBytes }: RequestOptions,
  body: (attempt: Attempt) => Promise<T>,
): Promise<T> {
  for (let i = 1; ; i += 1) {
    const attempt: Attempt = { bytes: 0 };
    try {
      return await body(attempt);
    } catch (error) {
      if (attempt.bytes > 0) onBytes?.(-attempt.bytes);
      signal.throwIfAborted();
      if (!(error instanceof TransientError)) throw error;
      if (i >= tries) {
        const often = tries > 1 ? ` (${tries} tries)` : "";
        throw new UserError(`${url}: could not be loaded: ${error.message}${often}`, {
          cause: error,
          hint: "check the connection and the server, and try again; what has been loaded is kept",
        });
      }
    }
    await pause(wait * 2 ** (i - 1), signal);
  }
}

function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const end = (): void => {
      clearTimeout(timer);
      reject(signal.reason as Error);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", end);
      resolve();
    }, milliseconds);
    signal.addEventListener("abort", end, { once: true });
  });
}

async function send(
  platform: Platform,
  url: string,
  headers: Record<string, string>,
  cache: "default" | "no-cache" | "reload",
  signal: AbortSignal,
): Promise<Response> {
  let response: Response;
  try {
    response = await platform.fetch(url, { headers, cache, signal });
  } catch (cause) {
    throw new TransientError(cause instanceof Error ? cause.message : String(cause), { cause });
  }
  const { status, statusText } = response;
  if (status === 200 || status === 206) return response;
  const said = `the server answers ${status}${statusText === "" ? "" : ` ${statusText}`}`;
  if (status >= 500 || status === 429 || status === 408) throw new TransientError(said);
  if (status === 416) throw changed(url, "it is shorter than model.json says");
  throw new UserError(`${url}: ${said}`, {
    hint: status === 404 ? "serve all of the folder that `culm compile --web` wrote, and check the address" : "check the server's settings",
  });
}

/** What model.json says is not what is there. */
function changed(url: string, how: string): UserError {
  return new UserError(`${url}: the file is not the one that model.json describes: ${how}`, {
    hint: "it is truncated, or the model was replaced meanwhile: load the page again, and if that does not help, copy the model's folder to the server again",
  });
}

/** Headers that a server of another origin does not show are not held against it: the hash of each block is checked in any case. */
function checkPartial(url: string, response: Response, { start, end, total }: ByteRange): void {
  const header = response.headers.get("content-range");
  if (header === null) return;
  const [, from, to, of] = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(header) ?? [];
  if (of !== undefined && of !== "*" && Number(of) !== total) throw changed(url, `it has ${of} bytes, expected ${total}`);
  if (Number(from) !== start || Number(to) !== end - 1)
    throw new UserError(`${url}: the server answers bytes ${start} to ${end - 1} with "${header}"`, {
      hint: "check the server or the proxy before it",
    });
}

function checkLength(url: string, response: Response, total: number): void {
  // With an encoding the length is that of the compressed bytes.
  if (response.headers.get("content-encoding") !== null) return;
  const length = response.headers.get("content-length");
  if (length !== null && Number(length) !== total) throw changed(url, `it has ${length} bytes, expected ${total}`);
}

async function readBody(url: string, response: Response, bytes: number, watch: Watch): Promise<Uint8Array<ArrayBuffer>> {
  const target = new Uint8Array(bytes);
  let at = 0;
  for await (const piece of piecesOf(response, watch)) {
    if (at + piece.length > bytes) throw changed(url, `more than the ${bytes} bytes that were asked for arrived`);
    target.set(piece, at);
    at += piece.length;
    watch.arrived(piece.length);
  }
  if (at < bytes) throw new TransientError(`the answer ended after ${at} of ${bytes} bytes`);
  return target;
}

async function* piecesOf(response: Response, watch: Watch): AsyncGenerator<Uint8Array, void, void> {
  const reader = response.body?.getReader();
  if (reader === undefined) return;
  // Ends the transfer, and a read that waits for it; after the end it does nothing.
  const cancel = (): Promise<void> => reader.cancel().catch(() => undefined);
  const abort = (): void => void cancel();
  watch.signal.addEventListener("abort", abort);
  try {
    for (;;) {
      const read = await reader.read().catch((cause: unknown) => {
        throw new TransientError(`the connection broke off (${cause instanceof Error ? cause.message : String(cause)})`, { cause });
      });
      watch.signal.throwIfAborted();
      if (read.done) return;
      yield read.value as Uint8Array;
    }
  } finally {
    watch.signal.removeEventListener("abort", abort);
    await cancel();
  }
}

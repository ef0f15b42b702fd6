import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { symlink } from "node:fs/promises";
import type { ServerResponse } from "node:http";
import { hostname } from "node:os";
import { fileURLToPath } from "node:url";
import { beforeEach, describe, expect, test, vi } from "vitest";
import { resolveModel } from "../../models/auto/index.ts";
import type { DownloadProgress } from "../../models/auto/index.ts";
import { repository, useHub } from "../support/hub-fixture.ts";
import { error, serve, sha256 } from "../support/hub-server.ts";

/** The pauses that were made, in milliseconds; none is waited for. */
const { pauses } = vi.hoisted(() => ({ pauses: [] as number[] }));
vi.mock("node:timers/promises", async (original) => {
  const real: typeof import("node:timers/promises") = await original();
  return {
    ...real,
    setTimeout: (ms: number, value: unknown, options: object) => {
      pauses.push(ms);
      return real.setTimeout(1, value, options);
    },
  };
});
vi.mock("node:fs/promises", async (original) => {
  const real: typeof import("node:fs/promises") = await original();
  return { ...real, symlink: vi.fn(real.symlink) };
});
beforeEach(() => void pauses.splice(0));

const fixture = useHub("hub-download");
const weights = repository.get("model.safetensors")!;
const blob = (): string => fixture.place("blobs", sha256(weights));
const partial = (): string => `${blob()}.incomplete`;
const kept = (): Buffer => readFileSync(partial());
/** Of the requests for the weights' bytes. */
const ranges = (): readonly (string | undefined)[] => fixture.hub.requests(`/${sha256(weights)}`).map(({ range }) => range);
const expectWhole = (): void => {
  expect(readFileSync(fixture.place("snapshots", fixture.hub.commit, "model.safetensors")).equals(weights)).toBe(true);
  expect(existsSync(partial())).toBe(false);
};
/** Faults of the weights' host only. */
const onWeights = (fault: (response: ServerResponse, range: string | undefined) => boolean): void => {
  fixture.hub.fault = (request, response, host) =>
    host === "cdn" && request.url!.includes(sha256(weights)) && fault(response, request.headers.range);
};
/** Sends some bytes of what would be more, and breaks the connection when they are in the file: a client drops what it has not read when it breaks. */
const cut = (response: ServerResponse, from: number, count: number, total = weights.length): true => {
  response.writeHead(from === 0 ? 200 : 206, {
    "content-length": total - from,
    ...(from === 0 ? {} : { "content-range": `bytes ${from}-${total - 1}/${total}` }),
  });
  const arrived = (): boolean => existsSync(partial()) && statSync(partial()).size >= from + count;
  const breaking = setInterval(() => {
    if (!arrived() && !response.closed) return;
    clearInterval(breaking);
    response.destroy();
  }, 5);
  response.write(weights.subarray(from, from + count));
  return true;
};
const startOf = (range: string | undefined): number => Number(/\d+/.exec(range ?? "0")![0]);

describe("a connection that breaks", () => {
  test("is taken up where it broke", async () => {
    let cuts = 2;
    onWeights((response, range) => cuts-- > 0 && cut(response, startOf(range), 100_000));
    await resolveModel("org/tiny");
    expect(ranges()).toEqual([undefined, "bytes=100000-", "bytes=200000-"]);
    expect(pauses).toEqual([500, 1000]);
    expectWhole();
  });

  test("again and again: after five tries the message says so, what has arrived is kept, and the next load goes on", async () => {
    onWeights((response, range) => cut(response, startOf(range), 1000));
    const failed = await resolveModel("org/tiny").catch((e: unknown) => e);
    expect(failed).toMatchObject({
      name: "UserError",
      message: expect.stringMatching(/the connection to .* breaks .* 5 times in a row/) as string,
    });
    expect(pauses).toEqual([500, 1000, 2000, 4000]);
    expect(kept().equals(weights.subarray(0, 5000))).toBe(true);
    fixture.hub.fault = () => false;
    fixture.hub.log.length = 0;
    const progress: DownloadProgress[] = [];
    await resolveModel("org/tiny", { onDownload: (p) => progress.push(p) });
    expect(ranges()).toEqual(["bytes=5000-"]);
    expect(progress[0]).toMatchObject({ file: "model.safetensors", bytes: 5000, total: weights.length });
    expectWhole();
  });

  test("an answer without a length that ends early counts as one", async () => {
    let first = true;
    onWeights((response, range) => {
      if (!first) return false;
      first = false;
      expect(range).toBe(undefined);
      response.writeHead(200).end(weights.subarray(0, 700_000));
      return true;
    });
    await resolveModel("org/tiny");
    expect(ranges().slice(-1)).toEqual(["bytes=700000-"]);
    expectWhole();
  });

  test("a server that knows no ranges sends all of it again", async () => {
    let first = true;
    fixture.hub.fault = (request, response, host) => {
      if (host !== "cdn" || !request.url!.includes(sha256(weights))) return false;
      if (first) {
        first = false;
        return cut(response, 0, 300_000);
      }
      delete request.headers.range;
      serve(weights, request, response);
      return true;
    };
    const progress: DownloadProgress[] = [];
    await resolveModel("org/tiny", { onDownload: (p) => progress.push(p) });
    expect(progress.every((p, i) => i === 0 || p.bytes >= progress[i - 1]!.bytes)).toBe(true);
    expectWhole();
  });

  test("a signal stops the download and keeps what has arrived", async () => {
    const abort = new AbortController();
    const reason = new Error("enough");
    const load = resolveModel("org/tiny", {
      signal: abort.signal,
      onDownload: ({ file, fileBytes }) => {
        if (file === "model.safetensors" && fileBytes > 0) abort.abort(reason);
      },
    });
    await expect(load).rejects.toBe(reason);
    const { length } = kept();
    expect(length).toBeGreaterThan(0);
    fixture.hub.log.length = 0;
    await resolveModel("org/tiny");
    expect(ranges()).toEqual(length === weights.length ? [] : [`bytes=${length}-`]);
    expectWhole();
  });
});

describe("a file that is not what the hub lists", () => {
  const damaged = Buffer.from(weights);
  damaged[weights.length - 1]! ^= 1;
  const refused = async (message: RegExp): Promise<void> => {
    await expect(resolveModel("org/tiny")).rejects.toThrow(message);
    expect(existsSync(blob())).toBe(false);
    expect(existsSync(partial())).toBe(false);
    expect(existsSync(fixture.place("snapshots", fixture.hub.commit, "model.safetensors"))).toBe(false);
    expect(existsSync(fixture.place("refs", "main"))).toBe(false);
    fixture.hub.fault = () => false;
    await resolveModel("org/tiny");
    expectWhole();
  };
  const sendsOnce = (bytes: Buffer, head: Record<string, number>): void =>
    onWeights((response) => (response.writeHead(200, head).end(bytes), true));

  test("in its hash", async () => {
    sendsOnce(damaged, { "content-length": damaged.length });
    await refused(/model\.safetensors: the content is damaged: its hash is/);
  });

  test("in its size, which the head tells before a byte is written", async () => {
    sendsOnce(weights.subarray(0, 1000), { "content-length": 1000 });
    await refused(/the hub lists 819608 bytes, but the server has 1000/);
  });

  test("in its size, which only the end tells", async () => {
    sendsOnce(Buffer.concat([weights, Buffer.from("more")]), {});
    await refused(/more than the 819608 bytes/);
  });

  test("in the range that it sends", async () => {
    mkdirSync(fixture.place("blobs"), { recursive: true });
    writeFileSync(partial(), weights.subarray(0, 1000));
    onWeights((response) => (response.writeHead(206, { "content-range": "bytes 0-9/10" }).end("0123456789"), true));
    await refused(/bytes from 1000 on were asked for, and the server sends "bytes 0-9\/10"/);
  });

  test("because of what an earlier download has left", async () => {
    mkdirSync(fixture.place("blobs"), { recursive: true });
    writeFileSync(partial(), Buffer.alloc(1000));
    await refused(/the content is damaged/);
  });

  test("a small file, by git's hash of it", async () => {
    fixture.hub.fault = (request, response) => {
      if (!request.url!.startsWith("/api/resolve-cache/")) return false;
      response.writeHead(200).end(Buffer.alloc(repository.get("config.json")!.length, "x"));
      return true;
    };
    await expect(resolveModel("org/tiny")).rejects.toThrow(/config\.json: the content is damaged/);
    expect(readdirSync(fixture.place("blobs"))).toEqual([]);
  });

  test("what is too long from an earlier download begins anew", async () => {
    mkdirSync(fixture.place("blobs"), { recursive: true });
    writeFileSync(partial(), Buffer.alloc(weights.length + 1));
    await resolveModel("org/tiny");
    expectWhole();
  });
});

describe("a hub that is busy", () => {
  const busy = (times: number, status: number, headers: Readonly<Record<string, string>> = {}): void => {
    fixture.hub.fault = (_, response) => {
      if (times-- <= 0) return false;
      error(response, status, undefined, headers);
      return true;
    };
  };

  test("429 with Retry-After: that is how long the pause is", async () => {
    busy(1, 429, { "retry-after": "7" });
    await resolveModel("org/tiny");
    expect(pauses).toEqual([7000]);
  });

  test("Retry-After may be a date", async () => {
    busy(1, 503, { "retry-after": new Date(Date.now() + 20_000).toUTCString() });
    await resolveModel("org/tiny");
    expect(pauses).toHaveLength(1);
    expect(pauses[0]).toBeGreaterThan(15_000);
    expect(pauses[0]).toBeLessThanOrEqual(20_000);
  });

  test("one that wants more than a minute is not waited for", async () => {
    busy(1, 429, { "retry-after": "3600" });
    await expect(resolveModel("org/tiny")).rejects.toThrow(/status 429 and asks to wait 3600 s; .*the cache has not got/);
    expect(pauses).toEqual([]);
  });

  test("500 twice, then an answer", async () => {
    busy(2, 500);
    await resolveModel("org/tiny");
    expect(pauses).toEqual([500, 1000]);
  });

  test("500 for ever: five tries", async () => {
    busy(Infinity, 500);
    await expect(resolveModel("org/tiny")).rejects.toThrow(/answers with status 500, 5 times in a row; .*the cache has not got/);
    expect(fixture.hub.log).toHaveLength(5);
  });
});

describe("at the same time", () => {
  test("two loads of one process fetch each file once", async () => {
    const [a, b] = await Promise.all([resolveModel("org/tiny"), resolveModel("org/tiny")]);
    expect(a).toBe(b);
    expectWhole();
    for (const name of ["config.json", "tokenizer.json", "model.safetensors"])
      expect(fixture.hub.requests(`/resolve/${fixture.hub.commit}/${name}`)).toHaveLength(1);
  });

  const load = () => {
    const module = new URL("../../runtime/hub/resolve.ts", import.meta.url).href;
    const code = `import { resolveModel } from ${JSON.stringify(module)};
      process.stdout.write(await resolveModel("org/tiny", { onDownload: ({ file }) => process.stderr.write(file + "\\n") }));`;
    const child = spawn(process.execPath, ["--import", "tsx", "--input-type=module", "-e", code], {
      cwd: fileURLToPath(new URL("../..", import.meta.url)),
    });
    let [out, err] = ["", ""];
    child.stdout.on("data", (text: Buffer) => (out += text.toString()));
    child.stderr.on("data", (text: Buffer) => (err += text.toString()));
    const ended = once(child, "close").then(([code]) => ({ code: code as number | null, out, err }));
    return { child, ended, said: () => err };
  };

  test("so do two processes", async () => {
    const [a, b] = await Promise.all([load().ended, load().ended]);
    expect([a.code, b.code], a.err + b.err).toEqual([0, 0]);
    expect([a.out, b.out]).toEqual(Array(2).fill(fixture.place("snapshots", fixture.hub.commit)));
    expectWhole();
    expect(fixture.hub.requests(`/resolve/${fixture.hub.commit}/model.safetensors`)).toHaveLength(1);
  });

  test("a process that is killed leaves what the next one goes on with, and no lock that holds it up", async () => {
    // The rest never comes.
    onWeights((response, range) => {
      if (range !== undefined) return false;
      response.writeHead(200, { "content-length": weights.length });
      response.write(weights.subarray(0, 500_000));
      return true;
    });
    const { child, ended, said } = load();
    await vi.waitFor(() => expect(existsSync(partial()) && kept().length, said()).toBe(500_000), { timeout: 30_000 });
    child.kill("SIGKILL");
    await ended;
    const started = performance.now();
    await resolveModel("org/tiny");
    expect(performance.now() - started).toBeLessThan(10_000);
    expect(ranges().slice(-1)).toEqual(["bytes=500000-"]);
    expectWhole();
  });

  test("a lock that another machine left behind long ago does not hold it up, and a fresh one does", async () => {
    const lock = fixture.place("..", ".locks", "models--org--tiny", `${sha256(weights)}.held`);
    mkdirSync(fixture.place("..", ".locks", "models--org--tiny"), { recursive: true });
    writeFileSync(lock, `1 not-${hostname()}`);
    const abort = new AbortController();
    const held = resolveModel("org/tiny", { signal: abort.signal });
    await vi.waitFor(() => expect(pauses.length).toBeGreaterThan(3));
    abort.abort();
    await expect(held).rejects.toThrow("aborted");
    expect(ranges()).toEqual([]);
    utimesSync(lock, new Date(Date.now() - 120_000), new Date(Date.now() - 120_000));
    await resolveModel("org/tiny");
    expectWhole();
  });
});

test.skipIf(!existsSync("/dev/full"))("a disk that fills up on the way", async () => {
  mkdirSync(fixture.place("blobs"), { recursive: true });
  symlinkSync("/dev/full", partial());
  const failed = await resolveModel("org/tiny").catch((e: unknown) => e);
  expect(failed).toMatchObject({ name: "UserError", message: `${fixture.place("..")}: the disk is full` });
  expect(existsSync(blob())).toBe(false);
});

test("where links cannot be made, a snapshot has copies", async () => {
  vi.mocked(symlink).mockRejectedValue(Object.assign(new Error("not permitted"), { code: "EPERM", syscall: "symlink" }));
  try {
    const folder = await resolveModel("org/tiny");
    expect(readdirSync(folder, { withFileTypes: true }).every((entry) => entry.isFile())).toBe(true);
    expectWhole();
    fixture.hub.log.length = 0;
    await resolveModel("org/tiny", { revision: fixture.hub.commit });
    expect(fixture.hub.log).toEqual([]);
  } finally {
    vi.mocked(symlink).mockReset();
  }
});

test("a blob that another revision has brought is not downloaded again", async () => {
  await resolveModel("org/tiny");
  const next = "beef".padEnd(40, "0");
  fixture.hub.refs.set("main", next);
  fixture.hub.files.set("config.json", Buffer.concat([repository.get("config.json")!, Buffer.from("\n")]));
  fixture.hub.log.length = 0;
  await resolveModel("org/tiny");
  expect(fixture.hub.requests("/resolve/").map(({ path }) => path.split("/").at(-1))).toEqual(["config.json"]);
  expect(readFileSync(fixture.place("refs", "main"), "utf8")).toBe(next);
  expect(readFileSync(fixture.place("snapshots", next, "config.json")).equals(fixture.hub.files.get("config.json")!)).toBe(true);
  expect(readFileSync(fixture.place("snapshots", fixture.hub.commit, "config.json")).equals(repository.get("config.json")!)).toBe(true);
});

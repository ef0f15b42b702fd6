import { createHash } from "node:crypto";
import { createServer } from "node:http";
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
export const gitBlob = (bytes: Uint8Array): string => createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");

/** An entry of the hub's tree, as the hub writes it. */
export interface TreeEntry {
  type: string;
  path: string;
  size: number;
  oid: string;
  lfs?: { oid: string; size: number; pointerSize: number };
}

export interface Logged {
  readonly path: string;
  readonly host: "hub" | "cdn";
  readonly authorization: string | undefined;
  readonly range: string | undefined;
}

/** Answers a request in place of the server; `false` leaves it to the server. */
export type Fault = (request: IncomingMessage, response: ServerResponse, host: "hub" | "cdn") => boolean;

/**
 * A hub on this machine with one repository: the endpoints of huggingface.co that a client reads, the files above 4 kB in LFS and therefore
 * on a host of their own, which is another origin.
 */
export interface HubServer {
  readonly endpoint: string;
  readonly repo: string;
  readonly commit: string;
  readonly files: Map<string, Buffer>;
  /** Branches and tags. */
  readonly refs: Map<string, string>;
  readonly log: Logged[];
  fault: Fault;
  /** Changes what the tree says. */
  tree: (entries: TreeEntry[]) => unknown;
  /** Requests whose path contains a text. */
  requests(part: string): readonly Logged[];
  close(): Promise<void>;
}

export const isLarge = (bytes: Uint8Array): boolean => bytes.length > 4096;
export const etagOf = (bytes: Uint8Array): string => (isLarge(bytes) ? sha256(bytes) : gitBlob(bytes));

const listen = (server: Server): Promise<string> =>
  new Promise((done) => server.listen(0, "127.0.0.1", () => done(`http://127.0.0.1:${(server.address() as AddressInfo).port}`)));

export async function openHub(files: ReadonlyMap<string, Buffer>, repo = "org/tiny"): Promise<HubServer> {
  const commit = "c0ffee".padEnd(40, "0");
  const cdnServer = createServer((request, response) => answer("cdn", request, response));
  const hubServer = createServer((request, response) => answer("hub", request, response));
  const cdn = await listen(cdnServer);
  const hub: HubServer = {
    endpoint: await listen(hubServer),
    repo,
    commit,
    files: new Map(files),
    refs: new Map([["main", commit]]),
    log: [],
    fault: () => false,
    tree: (entries) => entries,
    requests: (part) => hub.log.filter(({ path }) => path.includes(part)),
    close: async () => {
      for (const server of [cdnServer, hubServer]) {
        server.closeAllConnections();
        await new Promise((done) => server.close(done));
      }
    },
  };

  function answer(host: "hub" | "cdn", request: IncomingMessage, response: ServerResponse): void {
    const url = new URL(request.url!, "http://x");
    const { authorization, range } = request.headers;
    hub.log.push({ path: decodeURIComponent(url.pathname), host, authorization, range });
    if (hub.fault(request, response, host)) return;
    const api = new RegExp(`^/api/models/${repo}/(revision|tree)/([^/]+)$`).exec(url.pathname);
    const file = new RegExp(`^/${repo}/resolve/([^/]+)/(.+)$`).exec(url.pathname);
    if (host === "cdn" || url.pathname.startsWith("/api/resolve-cache/")) {
      const etag = url.pathname.split("/").at(-1)!;
      serve(
        [...hub.files.values()].find((bytes) => etagOf(bytes) === etag)!,
        request,
        response,
      );
    } else if (api === null && file === null) {
      error(response, request.headers.authorization === undefined ? 401 : 404, "RepoNotFound");
    } else {
      const revision = decodeURIComponent((api?.[2] ?? file?.[1])!);
      const sha = [commit, ...hub.refs.values()].includes(revision) ? revision : hub.refs.get(revision);
      if (sha === undefined) {
        error(response, 404, "RevisionNotFound");
        return;
      }
      if (file !== null) return void resolve(decodeURIComponent(file[2]!), sha, response);
      const entries = [...hub.files].map(([path, bytes]): TreeEntry => ({
        type: "file",
        path,
        size: bytes.length,
        oid: gitBlob(bytes),
        ...(isLarge(bytes) ? { lfs: { oid: sha256(bytes), size: bytes.length, pointerSize: 134 } } : {}),
      }));
      json(
        response,
        api![1] === "tree" ? hub.tree(entries) : { _id: "1", id: repo, sha, private: false, gated: false, lastModified: "2026-01-01" },
      );
    }
  }

  function resolve(path: string, sha: string, response: ServerResponse): void {
    const bytes = hub.files.get(path);
    if (bytes === undefined) return void error(response, 404, "EntryNotFound");
    const linked = isLarge(bytes) ? { "x-linked-size": bytes.length, "x-linked-etag": `"${sha256(bytes)}"` } : {};
    // As the hub does: small files by a path of its own, large ones from another host.
    const location = isLarge(bytes) ? `${cdn}/${sha256(bytes)}` : `/api/resolve-cache/models/${gitBlob(bytes)}`;
    response.writeHead(isLarge(bytes) ? 302 : 307, { location, "x-repo-commit": sha, etag: `"${gitBlob(bytes)}"`, ...linked }).end();
  }
  return hub;
}

/** A file's bytes, or the range that is asked for. */
export function serve(bytes: Buffer, request: IncomingMessage, response: ServerResponse): void {
  const start = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1] ?? -1);
  const part = start < 0 ? bytes : bytes.subarray(start);
  const range = start < 0 ? {} : { "content-range": `bytes ${start}-${bytes.length - 1}/${bytes.length}` };
  response.writeHead(start < 0 ? 200 : 206, { "content-length": part.length, ...range }).end(part);
}

function json(response: ServerResponse, value: unknown): void {
  response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(value));
}

export function error(response: ServerResponse, status: number, code?: string, headers: Readonly<Record<string, string>> = {}): void {
  response
    .writeHead(status, { "content-type": "application/json", ...(code === undefined ? {} : { "x-error-code": code }), ...headers })
    .end(JSON.stringify({ error: code ?? `status ${status}` }));
}

import { readFileSync, statSync } from "node:fs";
import { createServer } from "node:http";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { extname, join, normalize } from "node:path";

/** Answers a request in place of the server; `false` leaves it to the server. */
export type Fault = (path: string, request: IncomingMessage, response: ServerResponse) => boolean;

export interface StaticServer {
  /** http://127.0.0.1:port */
  readonly origin: string;
  /** Every request, in order. */
  readonly log: { readonly path: string; readonly range: string | undefined }[];
  fault: Fault;
  close(): Promise<void>;
}

const types: Readonly<Record<string, string>> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".json": "application/json",
  ".svg": "image/svg+xml",
};

/** Serves folders by the beginnings of their paths, the longest first, with byte ranges: what any static web server does. */
export async function serveFolders(folders: Readonly<Record<string, string>>): Promise<StaticServer> {
  const prefixes = Object.keys(folders).sort((a, b) => b.length - a.length);
  const http = createServer((request, response) => {
    const path = decodeURIComponent(new URL(request.url ?? "/", "http://x").pathname);
    server.log.push({ path, range: request.headers.range });
    if (server.fault(path, request, response)) return;
    const prefix = prefixes.find((start) => path.startsWith(start)) ?? "";
    const file = join(folders[prefix] ?? "", normalize(`/${path.slice(prefix.length)}${path.endsWith("/") ? "index.html" : ""}`));
    if (prefix !== "" && statSync(file, { throwIfNoEntry: false })?.isFile() === true) send(file, readFileSync(file), request, response);
    else response.writeHead(404).end();
  });
  const server: StaticServer = {
    origin: await new Promise((done) =>
      http.listen(0, "127.0.0.1", () => done(`http://127.0.0.1:${(http.address() as AddressInfo).port}`)),
    ),
    log: [],
    fault: () => false,
    close: async () => {
      http.closeAllConnections();
      await new Promise((done) => http.close(done));
    },
  };
  return server;
}

/** Serves other contents for some paths. */
export function replacing(files: Readonly<Record<string, Buffer | string>>): Fault {
  return (path, request, response) => {
    const body = files[path];
    if (body === undefined) return false;
    send(path, Buffer.from(body), request, response);
    return true;
  };
}

function send(path: string, body: Buffer, request: IncomingMessage, response: ServerResponse): void {
  const type = { "content-type": types[extname(path)] ?? "application/octet-stream" };
  const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "") ?? [];
  if (first === undefined) {
    response.writeHead(200, { ...type, "content-length": body.length }).end(body);
    return;
  }
  const part = body.subarray(Number(first), Number(last) + 1);
  if (part.length === 0) {
    response.writeHead(416, { "content-range": `bytes */${body.length}` }).end();
    return;
  }
  const contentRange = `bytes ${first}-${Number(first) + part.length - 1}/${body.length}`;
  response.writeHead(206, { ...type, "content-length": part.length, "content-range": contentRange }).end(part);
}

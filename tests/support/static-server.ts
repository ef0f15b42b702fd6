import { createReadStream, statSync } from "node:fs";
import { createServer } from "node:http";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { extname, join, normalize } from "node:path";

/** Answers a request in place of the server; `false` leaves it to the server. */
export type Fault = (path: string, request: IncomingMessage, response: ServerResponse) => boolean;

export interface StaticServer {
  /** http://127.0.0.1:port */
  readonly origin: string;
  /** Path and status of every request, in order. */
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

/** Serves folders by the prefixes of their paths, the longest first, with byte ranges: what any static web server does. */
export async function serveFolders(folders: Readonly<Record<string, string>>): Promise<StaticServer> {
  const prefixes = Object.keys(folders).sort((a, b) => b.length - a.length);
  const http = createServer((request, response) => {
    const path = decodeURIComponent(new URL(request.url ?? "/", "http://x").pathname);
    const { range } = request.headers;
    server.log.push({ path, range });
    if (!server.fault(path, request, response)) answer(path, range, response);
  });

  function answer(path: string, range: string | undefined, response: ServerResponse): void {
    const prefix = prefixes.find((start) => path.startsWith(start));
    const file = prefix === undefined ? "" : join(folders[prefix]!, normalize(`/${path.slice(prefix.length)}`));
    const found = statSync(path.endsWith("/") ? join(file, "index.html") : file, { throwIfNoEntry: false });
    if (found?.isFile() !== true) {
      response.writeHead(404).end();
      return;
    }
    const whole = path.endsWith("/") ? join(file, "index.html") : file;
    const type = types[extname(whole)] ?? "application/octet-stream";
    const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(range ?? "") ?? [];
    if (first === undefined) {
      response.writeHead(200, { "content-type": type, "content-length": found.size, "accept-ranges": "bytes" });
      createReadStream(whole).pipe(response);
      return;
    }
    const [start, end] = [Number(first), Math.min(Number(last), found.size - 1)];
    if (start > end) {
      response.writeHead(416, { "content-range": `bytes */${found.size}` }).end();
      return;
    }
    response.writeHead(206, {
      "content-type": type,
      "content-length": end - start + 1,
      "content-range": `bytes ${start}-${end}/${found.size}`,
    });
    createReadStream(whole, { start, end }).pipe(response);
  }

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

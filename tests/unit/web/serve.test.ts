import { expect, test } from "vitest";
import { DeviceLostError, UserError } from "../../../runtime/errors.ts";
import { connectModel, ModelError } from "../../../runtime/web/client.ts";
import type { PageDriver } from "../../../runtime/web/open.ts";
import type { Reply } from "../../../runtime/web/protocol.ts";
import { serveModel } from "../../../runtime/web/serve.ts";
import { testPlatform, workerPair } from "../../support/web.ts";

const driverOf = (facts: PageDriver["facts"]): PageDriver => ({ name: "fake", facts, open: () => Promise.reject(new Error("not here")) });

function connected(driver: () => PageDriver) {
  const { worker, scope } = workerPair();
  serveModel(scope, { platform: testPlatform(), driver });
  return connectModel(worker);
}

test.each([
  [new UserError("no adapter", { hint: "get one" }), { kind: "user", message: "no adapter", hint: "get one" }],
  [new DeviceLostError("gone", { hint: "open again" }), { kind: "lost", message: "gone", hint: "open again" }],
  [new Error("oops"), { kind: "internal", message: "oops", hint: undefined }],
])("%s reaches the page with what to do about it", async (error, failure) => {
  const client = connected(() => driverOf(() => Promise.reject(error)));
  const told = await client.open("http://x/model").catch((reason: unknown) => reason);
  expect(told).toBeInstanceOf(ModelError);
  expect(told).toMatchObject(failure);
});

test("a page without WebGPU is told so, however often it asks", async () => {
  const client = connected(() => {
    throw new UserError("this browser has no WebGPU");
  });
  for (let i = 0; i < 2; i += 1) await expect(client.open("http://x/model")).rejects.toThrow("this browser has no WebGPU");
});

test("without a model there is nothing to run", async () => {
  const client = connected(() => driverOf(() => Promise.reject(new Error("no"))));
  for (const call of [() => client.generate("Once"), () => client.profile(), () => client.reopen()])
    await expect(call()).rejects.toMatchObject({ kind: "user", message: "no model is open" });
  await client.close();
});

test("an address that is none", async () => {
  const client = connected(() => driverOf(() => Promise.resolve({} as never)));
  await expect(client.open("model")).rejects.toMatchObject({ kind: "user", message: "model: is not the address of a model" });
});

test("one thing at a time; a stop ends it, and the next one begins", async () => {
  let asked = 0;
  const { worker, scope } = workerPair();
  serveModel(scope, {
    platform: {
      fetch: (_, { signal }) =>
        new Promise((_done, reject) => {
          asked += 1;
          signal.addEventListener("abort", () => reject(signal.reason as Error));
        }),
    },
    driver: () => driverOf(() => Promise.resolve({} as never)),
  });
  const client = connectModel(worker);
  for (let i = 1; i <= 2; i += 1) {
    const abort = new AbortController();
    const opening = client.open("http://x/model", { signal: abort.signal });
    const told = expect(opening).rejects.toMatchObject({ kind: "aborted" });
    await expect.poll(() => asked).toBe(i);
    await expect(client.profile()).rejects.toMatchObject({ kind: "user", message: "the model is at work on something else" });
    abort.abort();
    await told;
  }
  await expect(client.open("http://x/model", { signal: AbortSignal.abort() })).rejects.toMatchObject({ kind: "aborted" });
  expect(asked).toBe(2);
});

test("a worker that cannot be loaded ends the calls that wait for it", async () => {
  const listeners = new Map<string, (event: { readonly data: Reply; readonly message?: string }) => void>();
  const worker = { postMessage: () => undefined, addEventListener: (type: string, listener: never) => void listeners.set(type, listener) };
  const client = connectModel(worker);
  const opening = client.open("http://x/model");
  listeners.get("error")!({ message: "syntax", data: undefined as never });
  await expect(opening).rejects.toMatchObject({ kind: "internal", message: "the worker failed: syntax" });
});

import { connectModel } from "../client.ts";
import type { ClientOptions, ModelClient } from "../client.ts";

/** Starts a worker that runs a model. Called again, it ends the one before and starts another. */
export function workerConnector(): (options: ClientOptions) => ModelClient {
  let worker: Worker | undefined;
  return (options) => {
    worker?.terminate();
    // Vite sees this expression and makes a file of the worker.
    worker = new Worker(new URL("../worker.ts", import.meta.url), { type: "module", name: "culm" });
    return connectModel(worker, options);
  };
}

/** `culm/runtime/web`: a page's side of a model that runs in a worker, and what is said between them. The worker itself is `culm/runtime/web/worker`. */
export { connectModel, ModelError } from "./client.ts";
export type { ClientOptions, GenerateHandlers, ModelClient, OpenHandlers, WorkerLike } from "./client.ts";
export type { Failure, ModelFacts, Profile, Progress, Reply, Request, Result, Settings, Token } from "./protocol.ts";
export { openWebModel } from "./open.ts";
export type { OpenWebOptions, PageDriver, WebModel } from "./open.ts";
export { browserPlatform } from "./platform.ts";
export type { CacheLike, CacheStorageLike, Platform } from "./platform.ts";
export { serveModel } from "./serve.ts";
export type { Port, ServeOptions } from "./serve.ts";
export type { AdapterFacts } from "../drivers/webgpu/adapter.ts";

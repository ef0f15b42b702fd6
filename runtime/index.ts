/** `culm/runtime`: runs artifacts. Needs no compiler, and no Node: drivers and files are brought by the caller. */
export { openArtifact } from "./steps.ts";
export type { LoadedArtifact, OpenArtifactOptions, WeightBank } from "./steps.ts";
export { createSession } from "./model-session.ts";
export type { PrefillOptions, Session, SessionOptions, Snapshot, StepOptions } from "./session.ts";
export type { Executor, HostArray, ProgramInfo, StepTime, Symbols } from "./executor.ts";
export type { Device, Driver, OpenOptions } from "./driver.ts";
export { parseManifest } from "./manifest.ts";
export { isIgnoredTensor } from "./weights.ts";
export type { SourceTensor, WeightSource } from "./weights.ts";
export { summarizeProfile } from "./profile.ts";
export type { KernelTime } from "./profile.ts";
export { isUserError, UserError } from "./errors.ts";

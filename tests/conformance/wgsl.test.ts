import { describe, vi } from "vitest";
import { lavapipeAvailable } from "../support/webgpu.ts";
import { wgslTargets } from "./backends.ts";
import { conformance } from "./suite.ts";

// the driver compiles a kernel for seconds where lanes talk through memory
vi.setConfig({ testTimeout: 300_000 });

describe.skipIf(!lavapipeAvailable)("on lavapipe", () => {
  conformance(wgslTargets[0]!);
});

import { describe } from "vitest";
import { lavapipeAvailable } from "../support/webgpu.ts";
import { wgslTargets } from "./backends.ts";
import { conformance } from "./suite.ts";

describe.skipIf(!lavapipeAvailable)("on lavapipe", () => {
  conformance(wgslTargets[1]!);
});

import { describe, vi } from "vitest";
import { skipsClang } from "../support/metal/clang.ts";
import { metalTargets } from "./backends.ts";
import { conformance } from "./suite.ts";

vi.setConfig({ testTimeout: 300_000 });

describe.skipIf(skipsClang)("on the stand-in", () => {
  conformance(metalTargets[0]!);
});

import { llvmTargets } from "./backends.ts";
import { conformance } from "./suite.ts";

for (const target of llvmTargets) conformance(target);

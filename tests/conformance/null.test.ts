import { nullTargets } from "./backends.ts";
import { conformance } from "./suite.ts";

for (const target of nullTargets) conformance(target);

import { cacheSection } from "./cache.ts";
import { embedsSection, forwardSection, paddedSection } from "./forward.ts";
import { generateSection, samplingSection } from "./generation.ts";
import type { Section } from "./section.ts";

/** In the order in which they are computed and compared. */
export const sections: readonly Section[] = [forwardSection, paddedSection, embedsSection, cacheSection, generateSection, samplingSection];

import type { AdapterFacts } from "../drivers/webgpu/adapter.ts";
import { shortfalls } from "../drivers/webgpu/adapter.ts";
import { UserError } from "../errors.ts";
import type { Variant } from "./bundle.ts";

/**
 * The best variant that an adapter can run: the first one that asks for nothing it lacks.
 * @throws UserError saying of each variant what is missing, with the numbers, when there is none.
 */
export function chooseVariant(variants: readonly Variant[], facts: AdapterFacts): Variant {
  const chosen = variants.find(({ requires }) => shortfalls(facts, requires).length === 0);
  if (chosen !== undefined) return chosen;
  const reasons = variants.map(({ caps, requires }) => `${caps}: ${shortfalls(facts, requires).join(", ")}`);
  throw new UserError(`${facts.name} can run no variant of this model. ${reasons.join("; ")}`, {
    hint: "try another browser or graphics driver, or a model that was compiled for less (`culm compile --web --variants base`)",
  });
}

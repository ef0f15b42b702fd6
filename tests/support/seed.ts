// A CI run judges a change and not its luck: it tries the same random cases each time. Elsewhere they are new each time; CULM_SEED=N asks for those of
// the seed that a failure names.
const seed = process.env["CULM_SEED"] ?? (process.env["CI"] === undefined ? undefined : "1");
if (seed !== undefined) {
  const { default: fc } = await import("fast-check");
  fc.configureGlobal({ seed: Number(seed) });
}

// Who may import whom (docs/architecture.md). Type-only imports count: a contract that leaks is a dependency too.
// tests/repo/imports.test.ts runs these rules, and runs them against a project that breaks each of them.

const parts = "^(dsl|compiler|backends|models|runtime|ffi)/";

/** A program of its own: Vite builds it into a static site, and nothing of it is in the package. */
const page = "^runtime/web/page/";

/** The two places that join the parts. They may import everything, and nothing but the command line and the public entry imports them. */
const compositionRoots = "^(models/auto|runtime/cli)/";

/** @type {import("dependency-cruiser").IConfiguration} */
module.exports = {
  forbidden: [
    { name: "no-cycles", severity: "error", comment: "No cycles, type imports included.", from: {}, to: { circular: true } },
    { name: "resolvable", severity: "error", comment: "Every import resolves.", from: {}, to: { couldNotResolve: true } },
    {
      name: "ir-stands-alone",
      severity: "error",
      comment: "compiler/ir imports compiler/ir and the diagnostics only.",
      from: { path: "^compiler/ir/" },
      to: { path: parts, pathNot: ["^compiler/ir/", "^compiler/diagnostics\\.ts$"] },
    },
    {
      name: "compiler-imports-only-itself",
      severity: "error",
      comment: "The compiler knows no model, backend, driver or native library.",
      from: { path: "^compiler/" },
      to: { path: parts, pathNot: "^compiler/" },
    },
    {
      name: "artifact-needs-no-compiler",
      severity: "error",
      comment: "The runtime reads artifacts through compiler/artifact.ts, so that file may not pull in the passes.",
      from: { path: "^compiler/artifact\\.ts$" },
      to: { path: parts, pathNot: ["^compiler/ir/", "^compiler/diagnostics\\.ts$"] },
    },
    {
      name: "dsl-sees-only-the-graph",
      severity: "error",
      comment: "dsl imports compiler/ir (and the diagnostics) only.",
      from: { path: "^dsl/" },
      to: { path: parts, pathNot: ["^dsl/", "^compiler/ir/", "^compiler/diagnostics\\.ts$"] },
    },
    {
      name: "models-see-only-the-dsl",
      severity: "error",
      comment: "A model is written in the public language; it imports dsl and its own folder.",
      from: { path: "^models/([^/]+)/", pathNot: compositionRoots },
      to: { path: parts, pathNot: ["^models/$1/", "^dsl/"] },
    },
    {
      name: "backends-see-the-contract",
      severity: "error",
      comment:
        "backends import compiler/ir, the contracts (compiler/backend.ts, template.ts), the passes over Thread programs that a legalisation is made of, the diagnostics and ffi.",
      from: { path: "^backends/" },
      to: {
        path: parts,
        pathNot: [
          "^backends/",
          "^compiler/ir/",
          "^compiler/(backend|template|diagnostics)\\.ts$",
          "^compiler/lower/(unroll|vectorise)\\.ts$",
          "^ffi/",
        ],
      },
    },
    {
      name: "backends-are-strangers",
      severity: "error",
      comment:
        "What backends share lies in backends/ itself, in backends/text (all that print text) and in backends/c-like (dialects of C).",
      from: { path: "^backends/([^/]+)/" },
      to: { path: "^backends/[^/]+/", pathNot: ["^backends/$1/", "^backends/(text|c-like)/"] },
    },
    {
      name: "runtime-sees-only-artifacts",
      severity: "error",
      comment: "The runtime never imports the compiler: it reads an artifact.",
      from: { path: "^runtime/", pathNot: compositionRoots },
      to: { path: parts, pathNot: ["^runtime/", "^compiler/artifact\\.ts$", "^ffi/"] },
    },
    {
      name: "runtime-core-runs-in-a-page",
      severity: "error",
      comment:
        "Files directly in runtime/ use no Node built-ins, so that they bundle for a browser. Node's side is in runtime/node, hub, drivers, text, cli.",
      from: { path: "^runtime/[^/]+\\.ts$" },
      to: { dependencyTypes: ["core"] },
    },
    {
      name: "the-page-speaks-to-a-worker",
      severity: "error",
      comment:
        "The page imports the runtime's core and its side of the worker; the worker's own code is a file of its own, loaded by its address.",
      from: { path: page },
      to: { path: parts, pathNot: [page, "^runtime/[^/]+\\.ts$", "^runtime/web/(client|protocol|worker)\\.ts$"] },
    },
    {
      name: "the-page-is-nobodys-library",
      severity: "error",
      comment: "Nothing of the product needs the page, or what it is made with.",
      from: { path: parts, pathNot: page },
      to: { path: [page, "node_modules/(svelte|vite|@sveltejs)/"] },
    },
    {
      name: "ffi-stands-alone",
      severity: "error",
      comment: "ffi holds typed wrappers of native libraries and imports nothing of ours.",
      from: { path: "^ffi/" },
      to: { path: parts, pathNot: "^ffi/" },
    },
    {
      name: "ffi-is-for-toolchains-and-drivers",
      severity: "error",
      comment: "Native libraries are called by backends/*/ and runtime/drivers/ only.",
      from: { path: parts, pathNot: ["^ffi/", "^backends/[^/]+/", "^runtime/drivers/", compositionRoots] },
      to: { path: "^ffi/" },
    },
    {
      name: "koffi-is-behind-ffi",
      severity: "error",
      comment: "One folder makes native calls.",
      from: { path: parts, pathNot: "^ffi/" },
      to: { path: "node_modules/koffi" },
    },
    {
      name: "the-hub-is-behind-its-room",
      severity: "error",
      comment: "One folder speaks to the Hugging Face hub: it decides where the token goes and what is checked.",
      from: { path: parts, pathNot: "^runtime/hub/" },
      to: { path: "node_modules/@huggingface/hub" },
    },
    {
      name: "nobody-imports-a-composition-root",
      severity: "error",
      comment: "Only the command line may use models/auto.",
      from: { path: parts, pathNot: compositionRoots },
      to: { path: compositionRoots },
    },
    {
      name: "product-does-not-import-tests",
      severity: "error",
      comment: "Code that ships imports nothing of tests/ or scripts/.",
      from: { path: parts },
      to: { path: "^(tests|scripts)/" },
    },
    {
      name: "product-does-not-import-dev-dependencies",
      severity: "error",
      comment: "What ships stands under dependencies.",
      from: { path: parts, pathNot: page },
      to: { dependencyTypes: ["npm-dev", "npm-no-pkg", "npm-unknown"], dependencyTypesNot: ["type-only"] },
    },
  ],
  options: {
    doNotFollow: { path: "node_modules" },
    exclude: { path: "^dist/" },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: "tsconfig.json" },
    enhancedResolveOptions: {
      exportsFields: ["exports"],
      conditionNames: ["culm-source", "import", "require", "node", "default", "types"],
    },
  },
};

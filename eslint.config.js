import { defineConfig, globalIgnores } from "eslint/config";
import svelte from "eslint-plugin-svelte";
import tseslint from "typescript-eslint";

export default defineConfig(
  globalIgnores(["dist/", "coverage/", ".cache/", "tests/**/fixtures/"]),
  tseslint.configs.strictTypeChecked,
  svelte.configs.recommended,
  svelte.configs.prettier,
  {
    languageOptions: { parserOptions: { projectService: true, extraFileExtensions: [".svelte"], tsconfigRootDir: import.meta.dirname } },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      eqeqeq: ["error", "always"],
      "prefer-const": ["error", { destructuring: "all" }],
      "no-var": "error",
      "object-shorthand": "error",

      // Every union in this compiler is closed: a new operation has to be handled, or sent to `default`, everywhere it is switched on.
      "@typescript-eslint/switch-exhaustiveness-check": ["error", { considerDefaultExhaustiveForUnions: true }],
      "@typescript-eslint/prefer-readonly": "error",
      "@typescript-eslint/no-unused-vars": ["error", { argsIgnorePattern: "^_", varsIgnorePattern: "^_", ignoreRestSiblings: true }],
      "@typescript-eslint/ban-ts-comment": ["error", { "ts-expect-error": "allow-with-description" }],

      // noUncheckedIndexedAccess makes every read of a typed array `number | undefined`: `!` says that the index was checked.
      "@typescript-eslint/no-non-null-assertion": "off",
      // Kernel text is put together from numbers.
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true, allowBoolean: true }],
      "@typescript-eslint/restrict-plus-operands": ["error", { allowNumberAndString: true }],
      "@typescript-eslint/no-confusing-void-expression": ["error", { ignoreArrowShorthand: true, ignoreVoidOperator: true }],
      "@typescript-eslint/no-unnecessary-condition": ["error", { allowConstantLoopConditions: "only-allowed-literals" }],
      "@typescript-eslint/no-meaningless-void-operator": "off",
      // `Record<never, never>` is what the attributes of an operation without attributes are.
      "@typescript-eslint/no-generated-empty-object-type": "off",
      // A type parameter used once is how a shape error gets its text, and how a generic contract reads.
      "@typescript-eslint/no-unnecessary-type-parameters": "off",
    },
  },
  {
    files: ["**/*.svelte", "**/*.svelte.ts"],
    languageOptions: { parserOptions: { parser: tseslint.parser } },
    rules: {
      // A prop that a component may change is declared with `let`, and its neighbours with it.
      "prefer-const": "off",
      "svelte/prefer-const": ["error", { destructuring: "all" }],
    },
  },
  {
    // Immutable plain data, behaviour in functions.
    files: ["compiler/ir/**"],
    rules: {
      "no-restricted-syntax": [
        "error",
        { selector: "ClassDeclaration, ClassExpression", message: "No classes in an IR: plain data and functions over it." },
      ],
    },
  },
  {
    // The product speaks through diagnostics, return values and the CLI.
    files: ["dsl/**", "compiler/**", "backends/**", "models/**", "runtime/**", "ffi/**"],
    ignores: ["runtime/cli/**"],
    rules: { "no-console": "error" },
  },
  {
    files: ["tests/**"],
    rules: {
      "@typescript-eslint/ban-ts-comment": ["error", { "ts-expect-error": false }],
      "@typescript-eslint/no-unused-expressions": "off",
      "@typescript-eslint/unbound-method": "off",
    },
  },
  {
    // A type test is code that must not compile.
    files: ["tests/types/**"],
    rules: {
      "@typescript-eslint/no-unused-vars": "off",
      "@typescript-eslint/no-unsafe-argument": "off",
      "@typescript-eslint/no-unsafe-assignment": "off",
      "@typescript-eslint/no-unsafe-call": "off",
      "@typescript-eslint/no-unsafe-member-access": "off",
    },
  },
  // In JavaScript a cast is a comment, which the rule does not see.
  { files: ["**/*.{js,mjs,cjs}"], rules: { "@typescript-eslint/no-unsafe-assignment": "off" } },
  { files: ["**/*.cjs"], rules: { "@typescript-eslint/no-require-imports": "off" }, languageOptions: { sourceType: "commonjs" } },
);

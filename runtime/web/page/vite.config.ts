import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vite";
import type { Plugin } from "vite";

/**
 * What a built page may do: be itself, and fetch from where it came from. The development server needs inline styles and a socket, so it has no policy.
 * The page is static, so the policy stands in its head and not in a server's configuration.
 */
const policy = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self'",
  "connect-src 'self'",
  "worker-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
].join("; ");

const contentPolicy: Plugin = {
  name: "content-security-policy",
  apply: "build",
  transformIndexHtml: () => [
    { tag: "meta", attrs: { "http-equiv": "Content-Security-Policy", content: policy }, injectTo: "head-prepend" },
  ],
};

export default defineConfig({
  root: import.meta.dirname,
  // Relative addresses: the page works in any folder of any static server.
  base: "./",
  plugins: [svelte({ configFile: false, compilerOptions: { runes: true } }), contentPolicy],
  worker: { format: "es" },
  build: {
    outDir: "../../../dist/web",
    emptyOutDir: true,
    // What has WebGPU has this too.
    target: "es2023",
    // A data: address would be refused by the policy.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
});

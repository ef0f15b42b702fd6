/** What to do in a browser to get WebGPU. */
export interface Advice {
  readonly browser: string;
  readonly steps: string;
}

/** Where WebGPU is to be had, by browser (https://github.com/gpuweb/gpuweb/wiki/Implementation-Status). */
const BROWSERS: readonly (Advice & { readonly agent: RegExp })[] = [
  // Edge calls itself Chrome too, and Chrome calls itself Safari: the first that fits is meant. On iOS all of them are Safari, and none of them
  // says what the first two are known by.
  {
    browser: "Firefox",
    agent: /Firefox\//,
    steps:
      "It is there from version 141 on Windows and 145 on Macs with Apple silicon. Elsewhere open about:config, set dom.webgpu.enabled to true, and start Firefox again.",
  },
  {
    browser: "Chrome and Edge",
    agent: /Chrome\//,
    steps:
      "It is there from version 113 on Windows, macOS and ChromeOS, and 121 on Android. If yours is newer, switch on graphics acceleration in Settings, System. On Linux open chrome://flags, enable “Unsafe WebGPU Support” and “Vulkan”, and start the browser again.",
  },
  {
    browser: "Safari",
    agent: /Safari\//,
    steps: "It is there from version 26, on macOS Tahoe, iOS 26 and iPadOS 26. Update the system to get it.",
  },
];

/** What to do, for each browser: the one that is used first. */
export function adviceFor(userAgent: string): readonly Advice[] {
  const used = BROWSERS.find(({ agent }) => agent.test(userAgent));
  return [...(used ? [used] : []), ...BROWSERS.filter((entry) => entry !== used)].map(({ browser, steps }) => ({ browser, steps }));
}

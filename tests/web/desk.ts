import type { Browser, BrowserContextOptions, Locator } from "playwright-core";
import type { Watched } from "../support/browser.ts";
import { openPage } from "../support/browser.ts";

/** The page as a person or a screen reader knows it: by the names of its parts. */
export interface Desk extends Watched {
  readonly prompt: Locator;
  readonly generate: Locator;
  readonly stop: Locator;
  /** What is going on, in a few words. */
  readonly status: Locator;
  readonly problem: Locator;
  /** What the model wrote, without the prompt. */
  readonly answer: Locator;
  region(name: string): Locator;
  set(settings: Readonly<Record<string, string | number>>): Promise<void>;
  /** Writes to the end. @returns the answer */
  write(prompt: string): Promise<string>;
}

/** Opens the page at an address, in a profile of its own. Loading and compiling take their time on SwiftShader. */
export async function openDesk(browser: Browser, url: string, options: BrowserContextOptions = {}): Promise<Desk> {
  const watched = await openPage(browser, options);
  const { page } = watched;
  page.setDefaultTimeout(200_000);
  const region: Desk["region"] = (name) => page.getByRole("region", { name, exact: true });
  const desk: Desk = {
    ...watched,
    region,
    prompt: page.getByRole("textbox", { name: "Prompt" }),
    generate: page.getByRole("button", { name: /^Generate/ }),
    stop: page.getByRole("button", { name: /^Stop/ }),
    status: page.getByRole("banner").getByRole("status"),
    problem: page.getByRole("alert"),
    answer: region("Text").locator("p.text > span:nth-child(2)"),
    async set(settings) {
      for (const [name, value] of Object.entries(settings)) {
        if (name === "Tokens") await page.getByRole("radio", { name: String(value) }).check({ force: true });
        else await page.getByRole("textbox", { name, exact: true }).fill(String(value));
      }
    },
    async write(prompt) {
      await desk.prompt.fill(prompt);
      // Not while the last thing that it did goes on.
      await page.locator("button[aria-disabled=false]", { hasText: "Generate" }).click();
      await desk.status.filter({ hasText: /^(Reading|Writing)/ }).waitFor();
      await desk.status.filter({ hasText: /^Done|wrong/ }).waitFor();
      return (await desk.answer.textContent()) ?? "";
    },
  };
  await page.goto(url);
  return desk;
}

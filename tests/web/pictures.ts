// `node --import tsx tests/web/pictures.ts`: takes the pictures of the page that docs/images/ keeps, wide and narrow, light and dark.

import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { projectRoot } from "../../scripts/build.mjs";
import { launchChromium } from "../support/browser.ts";
import { buildSite } from "../support/site.ts";
import { replacing, serveFolders } from "../support/static-server.ts";
import { openDesk } from "./desk.ts";

const images = join(projectRoot, "docs", "images");
mkdirSync(images, { recursive: true });
const folder = mkdtempSync(join(tmpdir(), "culm-pictures-"));
const { bundle } = buildSite(folder);
const server = await serveFolders({ "/": folder });
server.fault = replacing({ "/model/model.json": JSON.stringify(bundle) });
const browser = await launchChromium();
try {
  // Like a phone, without a bar beside what scrolls.
  const desk = await openDesk(browser, `${server.origin}/`, { viewport: { width: 1280, height: 1000 }, isMobile: true });
  const { page } = desk;
  const sizes = { wide: { width: 1280, height: 1000 }, narrow: { width: 390, height: 844 } };
  const take = async (name: string, size: keyof typeof sizes, colorScheme: "light" | "dark"): Promise<void> => {
    await page.emulateMedia({ colorScheme });
    await page.setViewportSize(sizes[size]);
    await page.evaluate("scrollTo(0, 0)");
    await page.screenshot({ path: join(images, `${name}.png`), fullPage: size === "wide" });
  };
  await desk.status.filter({ hasText: /^Ready/ }).waitFor();
  await desk.set({ Length: 60, Seed: 11 });
  await desk.prompt.fill("It was the best of");
  await page.keyboard.press("Control+Enter");
  await desk.status.filter({ hasText: "Writing" }).waitFor();
  await page.waitForTimeout(15_000);
  await take("page-narrow-dark", "narrow", "dark");
  await desk.status.filter({ hasText: /^Done/ }).waitFor();
  await take("page-wide-light", "wide", "light");
  await take("page-wide-dark", "wide", "dark");
  await take("page-narrow-light", "narrow", "light");
} finally {
  await browser.close();
  await server.close();
  rmSync(folder, { recursive: true, force: true });
}

// What only the tests need: the two engines that WebGPU is tested on besides Dawn's null device, and the compiler that kernels for Metal are
// checked with. Lavapipe, Mesa's Vulkan device on the CPU, is unpacked from the distribution's packages into node_modules/.cache and leaves the
// system as it is. Chromium and clang are installed. `npm start` never comes here.

import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { delimiter, dirname, join, relative, resolve } from "node:path";
import { projectRoot } from "./build.mjs";
import { aptAsRoot, hasApt, hasPackage, readJson, runs, say, SetupError } from "./setup.mjs";

const skipping = "CULM_SKIP_GPU_TESTS=1 skips the tests that need it.";

// --- lavapipe -----------------------------------------------------------------------------------------------------------------------------

const cached = join(projectRoot, "node_modules", ".cache", "culm", "lavapipe");

/**
 * How to load it: the description that the Vulkan loader reads (an ICD file), and the libraries that this system lacks.
 * @typedef {{ icd: string, libraries: string[] }} Lavapipe
 */

/** @param {string} folder @returns {Lavapipe | null} */
function lavapipeIn(folder) {
  const noted = /** @type {Lavapipe | undefined} */ (readJson(join(folder, "lavapipe.json")));
  if (noted === undefined) return null;
  const paths = [noted.icd, ...noted.libraries].map((path) => resolve(folder, path));
  const [icd = "", ...libraries] = paths;
  return paths.every((path) => existsSync(path)) ? { icd, libraries } : null;
}

/** @returns {Lavapipe | null} the one that CULM_LAVAPIPE names by its ICD file, else what an earlier set-up has found or fetched */
export function findLavapipe() {
  const named = process.env["CULM_LAVAPIPE"];
  return named !== undefined && named !== "" ? { icd: named, libraries: [] } : lavapipeIn(cached);
}

/**
 * Makes lavapipe the Vulkan device of this process. Its libraries are loaded by path before anything asks for them by name: a name that is
 * loaded already is not searched for, so no search path has to be set before the process starts.
 */
export function useLavapipe(lavapipe = findLavapipe()) {
  if (lavapipe === null)
    throw new SetupError(
      `there is no lavapipe to test on. npm test fetches it, and says why where it cannot. CULM_LAVAPIPE names the ICD file of another one ` +
        `(of Mesa 25 or newer). ${skipping}`,
      2,
    );
  const koffi = /** @type {{ load(path: string): unknown }} */ (createRequire(import.meta.url)("koffi"));
  // Some of them need others, so those that do not load are tried again.
  for (let waiting = lavapipe.libraries; waiting.length > 0;) {
    /** @type {unknown} */
    let reason;
    const failed = waiting.filter((path) => {
      try {
        koffi.load(path);
        return false;
      } catch (error) {
        reason = error;
        return true;
      }
    });
    if (failed.length === waiting.length) throw new Error(`lavapipe needs ${failed.join(", ")}`, { cause: reason });
    waiting = failed;
  }
  process.env["VK_ICD_FILENAMES"] = lavapipe.icd;
  process.env["XDG_RUNTIME_DIR"] ??= tmpdir(); // Mesa complains where there is none
}

/** Opens it with Dawn, in a process of its own: a driver may crash. @param {Lavapipe} lavapipe @returns {string | null} what went wrong */
function problemOf(lavapipe) {
  const script = `
    import { useLavapipe } from ${JSON.stringify(import.meta.url)};
    useLavapipe(${JSON.stringify(lavapipe)});
    const { create } = await import("webgpu");
    const adapter = await create([]).requestAdapter();
    if (adapter === null) throw new Error("Dawn finds no device that it accepts");
    await adapter.requestDevice();
    process.exit(0);`;
  const { status, stderr } = spawnSync(process.execPath, ["--input-type=module", "-e", script], { cwd: projectRoot, encoding: "utf8" });
  return status === 0 ? null : stderr.trim();
}

/** @param {string} root a file system's root @returns {string | undefined} the ICD file of the lavapipe that is installed there */
function installedIcd(root) {
  const folder = join(root, "usr/share/vulkan/icd.d");
  const name = existsSync(folder) ? readdirSync(folder).find((file) => /^lvp_icd.*\.json$/.test(file)) : undefined;
  return name === undefined ? undefined : join(folder, name);
}

/** @returns {{ id: string | undefined, release: string | undefined }} e.g. debian, bookworm */
function distribution() {
  const text = existsSync("/etc/os-release") ? readFileSync("/etc/os-release", "utf8") : "";
  /** @param {string} name */
  const value = (name) => new RegExp(`^${name}="?([^"\n]*)`, "m").exec(text)?.[1];
  return { id: value("ID"), release: value("VERSION_CODENAME") };
}

/**
 * Downloads Mesa's Vulkan drivers, and whatever of their dependencies this system lacks, with lists and a cache in a folder of our own: that
 * needs no root and installs nothing. The sources are the machine's. Dawn refuses the Mesa 22 of Debian 12, so there the backports of the same
 * mirror are a source too.
 * @param {string} folder @returns {string[]} the packages
 */
function downloadMesa(folder) {
  const sources = join(folder, "sources.list");
  const archives = join(folder, "cache", "archives");
  for (const path of [join(folder, "lists", "partial"), join(archives, "partial")]) mkdirSync(path, { recursive: true });
  if (existsSync("/etc/apt/sources.list")) copyFileSync("/etc/apt/sources.list", sources);
  else writeFileSync(sources, "");
  const settings = {
    "Dir::State::Lists": join(folder, "lists"),
    "Dir::Cache": join(folder, "cache"),
    "Dir::Etc::SourceList": sources,
    "Debug::NoLocking": "1",
    "APT::Sandbox::User": "root", // apt's own user may not read our folder
  };
  const args = Object.entries(settings).flatMap(([name, value]) => ["-o", `${name}=${value}`]);
  /** @param {string[]} command */
  const apt = (...command) => {
    if (!runs("apt-get", ["-qq", ...args, ...command])) throw new SetupError(`apt-get ${command.join(" ")} failed (see above)`, 2);
  };
  apt("update");
  /** @type {string[]} */
  let release = [];
  const system = distribution();
  if (system.id === "debian" && system.release === "bookworm") {
    const list = spawnSync("apt-get", [...args, "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)"], { encoding: "utf8" });
    const mirror = /^(\S+) bookworm main$/m.exec(list.stdout)?.[1];
    if (mirror === undefined)
      throw new SetupError("apt's sources do not name the main part of bookworm, so its backports are unknown too", 2);
    const keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
    const line = `deb ${existsSync(keys) ? `[signed-by=${keys}] ` : ""}${mirror} bookworm-backports main`;
    writeFileSync(sources, `${readFileSync(sources, "utf8")}\n${line}\n`);
    apt("update");
    release = ["-t", "bookworm-backports"];
  }
  apt("-y", "--no-install-recommends", "--download-only", ...release, "install", "mesa-vulkan-drivers");
  return readdirSync(archives)
    .filter((file) => file.endsWith(".deb"))
    .map((file) => join(archives, file));
}

/** Unpacks packages below a folder, and sees what of them has to be loaded. @param {string[]} packages @param {string} folder @returns {Lavapipe} */
function unpack(packages, folder) {
  const root = join(folder, "root");
  mkdirSync(root);
  for (const path of packages) if (!runs("dpkg", ["-x", path, root])) throw new SetupError(`${path} cannot be unpacked (see above)`, 2);
  const installed = installedIcd(root);
  if (installed === undefined) throw new SetupError("Mesa's packages bring no lavapipe", 2);
  const files = readdirSync(root, { recursive: true, encoding: "utf8" }).map((path) => join(root, path));
  const driver = files.find((path) => path.endsWith("/libvulkan_lvp.so")) ?? "";
  const loader = files.find((path) => path.endsWith("/libvulkan.so.1"));
  const folders = [...new Set(files.filter((path) => /\.so(\.|$)/.test(path)).map((path) => dirname(path)))];
  const env = { ...process.env, LD_LIBRARY_PATH: folders.join(delimiter) };
  const needed = spawnSync("ldd", [driver, ...(loader === undefined ? [] : [loader])], { encoding: "utf8", env }).stdout;
  const missing = [...needed.matchAll(/(\S+) => not found/g)].map(([, name]) => name);
  if (missing.length > 0) throw new SetupError(`lavapipe needs ${missing.join(", ")}, which no package brought`, 2);
  const beside = [...needed.matchAll(/=> (\S+)/g)].map(([, path]) => path ?? "").filter((path) => path.startsWith(root));
  // A path with a slash is one from the file's own folder, to the loader.
  const icd = /** @type {{ ICD: object }} */ (JSON.parse(readFileSync(installed, "utf8")));
  const description = { ...icd, ICD: { ...icd.ICD, library_path: `./${relative(folder, driver)}` } };
  writeFileSync(join(folder, "lvp_icd.json"), JSON.stringify(description));
  const libraries = [...new Set([...beside, ...(loader === undefined ? [] : [loader])])];
  return { icd: "lvp_icd.json", libraries: libraries.map((path) => relative(folder, path)) };
}

function ensureLavapipe() {
  if (findLavapipe() !== null) return;
  mkdirSync(dirname(cached), { recursive: true });
  const folder = mkdtempSync(`${cached}-`);
  try {
    const icd = installedIcd("/");
    if (icd !== undefined && problemOf({ icd, libraries: [] }) === null) {
      writeFileSync(join(folder, "lavapipe.json"), JSON.stringify({ icd, libraries: [] }));
    } else {
      if (!hasApt()) throw new SetupError("install Mesa's Vulkan drivers (25 or newer), with lavapipe among them", 2);
      say("fetching lavapipe for the tests ...");
      const download = join(folder, "apt");
      const note = unpack(downloadMesa(download), folder);
      rmSync(download, { recursive: true });
      writeFileSync(join(folder, "lavapipe.json"), JSON.stringify(note));
      const lavapipe = lavapipeIn(folder);
      const problem = lavapipe === null ? "not all of its files are there" : problemOf(lavapipe);
      if (problem !== null) throw new SetupError(`it was fetched and does not open: ${problem}`, 2);
    }
    rmSync(cached, { recursive: true, force: true });
    renameSync(folder, cached);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

// --- Chromium -----------------------------------------------------------------------------------------------------------------------------

const places = [
  "/usr/bin/chromium",
  "/usr/bin/google-chrome",
  "/usr/bin/google-chrome-stable",
  "/Applications/Chromium.app/Contents/MacOS/Chromium",
  "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
];

/** @returns {string | undefined} the browser that CULM_CHROMIUM names, else the one of this system */
export function findChromium() {
  const named = process.env["CULM_CHROMIUM"];
  return named !== undefined && named !== "" ? named : places.find((path) => existsSync(path));
}

/** The browser to test in. @returns {string} its path */
export function chromiumPath() {
  const path = findChromium();
  if (path === undefined)
    throw new SetupError(
      `there is no Chromium to test in. npm test installs it, and says why where it cannot. CULM_CHROMIUM names another one. ${skipping}`,
      2,
    );
  return path;
}

function ensureChromium() {
  if (findChromium() !== undefined) return;
  if (!hasApt()) throw new SetupError("install Chromium or Chrome", 2);
  const aptGet = aptAsRoot();
  if (aptGet === undefined) throw new SetupError("run: sudo apt-get update && sudo apt-get install -y --no-install-recommends chromium", 2);
  say("installing Chromium for the tests ...");
  if (!aptGet("update")) say("apt-get update failed; trying with the package lists as they are");
  if (!aptGet("install", "-y", "--no-install-recommends", "chromium") || findChromium() === undefined)
    throw new SetupError("installing chromium with apt failed (see above)", 2);
}

// --- clang --------------------------------------------------------------------------------------------------------------------------------

/** The release that Debian 12 and 13 both carry comes first; older ones lack what the kernels' tests need. */
const clangVersions = [19, 22, 21, 20];

/** @returns {string | undefined} the clang that CULM_CLANG names, else one of this system that has its sanitizers */
export function findClang() {
  const named = process.env["CULM_CLANG"];
  if (named !== undefined && named !== "") return named;
  return clangVersions
    .map((version) => `/usr/lib/llvm-${String(version)}`)
    .filter((root) => existsSync(join(root, "lib", "clang")))
    .filter((root) =>
      readdirSync(join(root, "lib", "clang"), { recursive: true, encoding: "utf8" }).some((file) => /tsan.*\.a$/.test(file)),
    )
    .map((root) => join(root, "bin", "clang++"))
    .find((path) => existsSync(path));
}

function ensureClang() {
  if (findClang() !== undefined) return;
  const packages = (/** @type {number} */ version) => [`clang-${String(version)}`, `libclang-rt-${String(version)}-dev`];
  if (!hasApt()) throw new SetupError("install clang (19 or newer) with its sanitizers, and name it in CULM_CLANG", 2);
  const aptGet = aptAsRoot();
  if (aptGet === undefined)
    throw new SetupError(`run: sudo apt-get update && sudo apt-get install -y --no-install-recommends ${packages(19).join(" ")}`, 2);
  say("installing clang for the tests ...");
  if (!aptGet("update")) say("apt-get update failed; trying with the package lists as they are");
  const version = clangVersions.find((v) => hasPackage(`libclang-rt-${String(v)}-dev`));
  if (version === undefined) throw new SetupError(`apt knows no clang of ${clangVersions.join(", ")}`, 2);
  if (!aptGet("install", "-y", "--no-install-recommends", ...packages(version)) || findClang() === undefined)
    throw new SetupError("installing clang with apt failed (see above)", 2);
}

// --- all of them --------------------------------------------------------------------------------------------------------------------------

/** Whether the tests that need an engine are to be skipped, and shown as skipped. */
export const skipsEngines = process.env["CULM_SKIP_GPU_TESTS"] === "1";

/** Fetches what is missing. What cannot be had does not stop the tests: those that need it fail, with what to do. */
export function ensureEngines() {
  if (skipsEngines) return;
  for (const [name, ensure] of /** @type {const} */ ([
    ["lavapipe", ensureLavapipe],
    ["Chromium", ensureChromium],
    ["clang", ensureClang],
  ])) {
    try {
      ensure();
    } catch (error) {
      const reason = error instanceof SetupError ? error.message : error instanceof Error ? (error.stack ?? error.message) : String(error);
      say(`\n${name} is missing, and the tests that need it will fail: ${reason}\n${skipping}\n`);
    }
  }
}

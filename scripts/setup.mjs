// What `npm start` and `npm test` need before they can run: node modules, the libLLVM runtime library, and a build. Each step looks first and
// does nothing when there is nothing to do, so that a second start costs some 30 ms. It speaks on stderr only.

import { spawnSync } from "node:child_process";
import { readFileSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { delimiter, join } from "node:path";
import { ensureBuilt, projectRoot } from "./build.mjs";

/** A stop with a message for the user and no stack trace. Exit code 2: something is missing that only the user can install. */
export class SetupError extends Error {
  /** @param {string} message @param {number} exitCode */
  constructor(message, exitCode) {
    super(message);
    this.exitCode = exitCode;
  }
}

/** @param {string} line */
export const say = (line) => void process.stderr.write(`${line}\n`);

/** @param {string} path @returns {unknown} undefined when the file is not there or is no JSON */
export function readJson(path) {
  try {
    return JSON.parse(readFileSync(path, "utf8"));
  } catch {
    return undefined;
  }
}

/** Runs a command, and shows its output only when it fails. @param {string} command @param {string[]} args */
export function runs(command, args) {
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    cwd: projectRoot,
    stdio: ["ignore", "pipe", "pipe"],
    maxBuffer: 1 << 26,
  });
  if (status === 0) return true;
  say(error === undefined ? `${stdout.toString()}${stderr.toString()}`.trim() : error.message);
  return false;
}

// --- node ---------------------------------------------------------------------------------------------------------------------------------

export function ensureNode(version = process.versions.node) {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  if (major < 20 || (major === 20 && minor < 19)) throw new SetupError(`culm needs Node 20.19 or newer; this is ${version}`, 2);
}

// --- node modules -------------------------------------------------------------------------------------------------------------------------

/** @typedef {{ packages?: Record<string, { version?: string, optional?: boolean, devOptional?: boolean }> }} Lockfile */

/** True when every package that the lock file asks for is installed in its version (packages for other platforms may be absent). */
export function modulesAreCurrent(root = projectRoot) {
  const wanted = /** @type {Lockfile | undefined} */ (readJson(join(root, "package-lock.json")))?.packages;
  const installed = /** @type {Lockfile | undefined} */ (readJson(join(root, "node_modules", ".package-lock.json")))?.packages;
  if (wanted === undefined || installed === undefined) return false;
  return Object.entries(wanted).every(([path, entry]) => {
    if (path === "") return true;
    const found = installed[path];
    return found === undefined ? entry.optional === true || entry.devOptional === true : found.version === entry.version;
  });
}

export function ensureModules() {
  if (modulesAreCurrent()) return;
  say("installing node modules ...");
  const npm = process.env["npm_execpath"];
  const args = ["ci", "--no-audit", "--no-fund", "--loglevel=error", "--no-update-notifier"];
  const done = npm?.endsWith(".js") ? runs(process.execPath, [npm, ...args]) : runs("npm", args);
  if (!done)
    throw new SetupError("npm could not install the node modules (see above). When that is mended, run the same command again.", 1);
}

// --- libLLVM ------------------------------------------------------------------------------------------------------------------------------

const oldest = 14;
const newest = 22;

/** The order in which apt is asked: 19 is the release that Debian 12 and 13 both carry, then the newest that there is. */
const preferredVersions = [19, 22, 21, 20, 18, 17, 16, 15, 14];

/** @param {number} version */
function libraryFolders(version) {
  const triple = { x64: "x86_64-linux-gnu", arm64: "aarch64-linux-gnu" }[/** @type {string} */ (process.arch)];
  return [
    ...(process.env["LD_LIBRARY_PATH"]?.split(delimiter).filter((folder) => folder !== "") ?? []),
    ...(triple === undefined ? [] : [`/usr/lib/${triple}`, `/lib/${triple}`]),
    `/usr/lib/llvm-${String(version)}/lib`,
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib",
    `/opt/homebrew/opt/llvm@${String(version)}/lib`,
    "/opt/homebrew/opt/llvm/lib",
    `/usr/local/opt/llvm@${String(version)}/lib`,
  ];
}

/** The version in a library's file name, or undefined: libLLVM.so.19.1, libLLVM-19.so.1, libLLVM-14.0.6.so.1, libLLVM.dylib. @param {string} file */
export function libraryVersion(file) {
  const match = /^libLLVM(?:-(\d+)(?:\.\d+)*)?\.(?:so(?:\.(\d+)(?:\.\d+)*)?|dylib)$/.exec(file);
  if (match === null) return undefined;
  const version = Number(match[1] ?? match[2]);
  return Number.isNaN(version) ? undefined : version;
}

/** Every libLLVM on this machine that we can use, the newest first. @returns {{ version: number, path: string }[]} */
export function findLibLLVM() {
  const named = process.env["CULM_LLVM"];
  if (named !== undefined && named !== "") return [{ version: 0, path: named }];
  /** @type {Map<string, { version: number, path: string }>} */
  const found = new Map();
  for (let version = newest; version >= oldest; version--) {
    for (const folder of libraryFolders(version)) {
      /** @type {string[]} */
      let files = [];
      try {
        files = readdirSync(folder);
      } catch {
        continue;
      }
      for (const file of files) if (libraryVersion(file) === version) found.set(join(folder, file), { version, path: join(folder, file) });
      if (folder.includes("homebrew") && files.includes("libLLVM.dylib"))
        found.set(folder, { version, path: join(folder, "libLLVM.dylib") });
    }
  }
  return [...found.values()];
}

/** @returns {boolean} whether one of them really loads: a file alone may be broken or made for another machine */
function libLLVMLoads() {
  const candidates = findLibLLVM();
  if (candidates.length === 0) return false;
  const koffi = /** @type {{ load(path: string): unknown }} */ (createRequire(import.meta.url)("koffi"));
  return candidates.some(({ path }) => {
    try {
      koffi.load(path);
      return true;
    } catch {
      return false;
    }
  });
}

export function hasApt() {
  return spawnSync("apt-get", ["--version"], { stdio: "ignore" }).status === 0;
}

/** @returns {((...args: string[]) => boolean) | undefined} apt-get that may install, which says whether it did; undefined where root is out of reach */
export function aptAsRoot() {
  const isRoot = process.getuid?.() === 0;
  if (!isRoot && spawnSync("sudo", ["-n", "true"], { stdio: "ignore" }).status !== 0) return undefined;
  // Under sudo the variable has to travel as an argument of env.
  const [command, ...before] = [...(isRoot ? [] : ["sudo", "-n"]), "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"];
  return (...args) => runs(/** @type {string} */ (command), [...before, ...args]);
}

/** Whether apt would install a package. @param {string} name */
export function hasPackage(name) {
  const policy = spawnSync("apt-cache", ["policy", name], { encoding: "utf8", env: { ...process.env, LC_ALL: "C" } });
  return policy.status === 0 && /Candidate: (?!\(none\))/.test(policy.stdout);
}

/** @returns {number | undefined} the version that apt would install */
function versionInApt() {
  return preferredVersions.find((version) => hasPackage(`libllvm${String(version)}`));
}

function ensureLibLLVM() {
  if (libLLVMLoads()) return;
  if (!hasApt()) {
    const how =
      process.platform === "darwin" ? "brew install llvm" : "install your system's LLVM runtime library (libLLVM.so, version 14 to 22)";
    throw new SetupError(`culm needs the libLLVM runtime library, version 14 to 22, to make CPU kernels. Run:\n\n  ${how}\n`, 2);
  }
  const aptGet = aptAsRoot();
  if (aptGet === undefined) {
    const name = `libllvm${String(versionInApt() ?? preferredVersions[0])}`;
    const command = `sudo apt-get update && sudo apt-get install -y --no-install-recommends ${name}`;
    throw new SetupError(
      `culm needs the libLLVM runtime library to make CPU kernels, and installing it needs root. Run:\n\n  ${command}\n`,
      2,
    );
  }
  say("installing the libLLVM runtime library ...");
  if (!aptGet("update")) say("apt-get update failed; trying with the package lists as they are");
  const version = versionInApt();
  if (version === undefined)
    throw new SetupError("apt knows no libllvm14 to libllvm22 package. Install a libLLVM runtime library by hand.", 2);
  if (!aptGet("install", "-y", "--no-install-recommends", `libllvm${String(version)}`) || !libLLVMLoads()) {
    throw new SetupError(`installing libllvm${String(version)} with apt failed (see above)`, 2);
  }
}

// --- all of it ----------------------------------------------------------------------------------------------------------------------------

export async function setUp() {
  ensureNode();
  ensureModules();
  ensureLibLLVM();
  await ensureBuilt({ log: say });
}

/** Runs a script's body; a failure becomes a message and an exit code. @param {() => Promise<void>} body */
export async function runScript(body) {
  try {
    await body();
  } catch (error) {
    if (error instanceof SetupError) {
      say(`\n${error.message}`);
      process.exitCode = error.exitCode;
    } else {
      say(error instanceof Error ? (error.stack ?? error.message) : String(error));
      process.exitCode = 1;
    }
  }
}

import { randomBytes } from "node:crypto";
import { mkdir, rename, rm, stat } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { UserError } from "../errors.ts";

/**
 * Writes a folder whole or not at all: it is written beside its place under another name and renamed when it is complete. A folder of that name that has
 * the `marker` file is replaced; anything else there is left alone.
 * @param what a folder of this kind is called in messages
 * @throws UserError when there is something else under that name; errors of `write` and of the file system as they are
 */
export async function writeFolder(folder: string, marker: string, what: string, write: (folder: string) => Promise<void>): Promise<void> {
  const target = resolve(folder);
  const temporary = `${target}.${randomBytes(6).toString("hex")}.tmp`;
  try {
    await mkdir(dirname(target), { recursive: true });
    // Known before the work is done, not after.
    await checkReplaceable(target, marker, what);
    await mkdir(temporary);
    await write(temporary);
    await replace(temporary, target, marker, what);
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    throw error;
  }
}

/** Whether there is a folder to replace. */
async function checkReplaceable(target: string, marker: string, what: string): Promise<boolean> {
  if ((await stat(target).catch(() => undefined)) === undefined) return false;
  if ((await stat(join(target, marker)).catch(() => undefined))?.isFile() === true) return true;
  throw new UserError(`${target}: exists already and is not ${what}`, { hint: "give another name, or remove it" });
}

async function replace(temporary: string, target: string, marker: string, what: string): Promise<void> {
  if (!(await checkReplaceable(target, marker, what))) return rename(temporary, target);
  // A folder cannot be renamed over a folder that is not empty, so the old one steps aside; whoever has its files open keeps them.
  const old = `${temporary}.old`;
  await rename(target, old);
  await rename(temporary, target);
  await rm(old, { recursive: true, force: true });
}

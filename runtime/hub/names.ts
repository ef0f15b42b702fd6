import { shown, UserError } from "../errors.ts";

/**
 * Whether a text can be the name of a hub's repository: `name` or `org/name`, of letters, digits, "-", "_" and ".", at most 96 in all, as
 * huggingface_hub's validate_repo_id has it. A path that begins with "/", "./" or "../" is none.
 */
export function isRepositoryName(text: string): boolean {
  return text.length <= 96 && /^(?:\w[\w.-]*\/)?\w[\w.-]*$/.test(text) && !/--|\.\.|[.-](?:\/|$)|\.git$/.test(text);
}

/** A full commit hash: content that does not change. */
export function isCommit(text: string): boolean {
  return /^[0-9a-f]{40}$/.test(text);
}

/** Refuses what git has no such name for, and what would lead out of the cache's folder `refs`. @throws UserError */
export function checkRevision(revision: string): string {
  const parts = revision.split("/");
  const wrong =
    revision.length > 200 || /[\u0000-\u0020\u007f\\:?*~^[\]]/.test(revision) || parts.some((part) => /^(\..*)?$|\.\.|\.$/.test(part));
  if (wrong) throw new UserError(`revision: expected a branch, tag or commit, got ${shown(revision)}`);
  return revision;
}

/** Refuses a file name that leads out of its folder on any system: one of a stranger's list. @throws UserError */
export function checkFileName(name: unknown, repo: string): string {
  const wrong =
    typeof name !== "string" || /^$|^[/\\]|^[a-zA-Z]:|\0/.test(name) || name.split(/[/\\]/).some((part) => part === ".." || part === ".");
  if (wrong) throw new UserError(`${repo}: the hub lists a file named ${shown(name)}, which leads out of the model's folder`);
  return name;
}

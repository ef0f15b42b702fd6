import { join } from "node:path";
import { shown, UserError } from "../errors.ts";
import { readShardIndex } from "../node/checkpoint.ts";
import { isMarkedAbsent, sizeOf, snapshotPath } from "./cache.ts";
import type { RepositoryCache } from "./cache.ts";
import type { RemoteFile } from "./download.ts";
import { checkFileName } from "./names.ts";

/** What of a repository is wanted: all that running a model takes, what a tokenizer takes, or the configuration alone. */
export type Part = "model" | "tokenizer" | "config";

const config = "config.json";
const tokenizer = "tokenizer.json";
const weights = "model.safetensors";
export const shardIndex = "model.safetensors.index.json";

/** Files that say what else there is to say; a repository may lack them. */
const tokenizerExtras = ["tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "chat_template.json"];

function required(part: Part): readonly string[] {
  return part === "tokenizer" ? [tokenizer] : [config];
}

/** The files that the part may do without. */
export function optional(part: Part): readonly string[] {
  switch (part) {
    case "model":
      return ["generation_config.json", tokenizer, ...tokenizerExtras];
    case "tokenizer":
      return tokenizerExtras;
    case "config":
      return [];
  }
}

/** Far above any configuration or vocabulary, and too little to fill a disk with. */
const mostTextBytes = 500_000_000;
const mostEntries = 10_000;

/**
 * Checks a folder's listing as the hub gives it, which may be anything.
 * @throws UserError for a name that leads out of the folder, a size or hash that is none, and a list without end
 */
export async function checkListing(entries: AsyncIterable<unknown>, repo: string): Promise<ReadonlyMap<string, RemoteFile>> {
  const files = new Map<string, RemoteFile>();
  let count = 0;
  for await (const entry of entries) {
    if ((count += 1) > mostEntries) throw new UserError(`${repo}: the hub lists more than ${mostEntries} files`);
    const { type, path, size, oid, lfs } = fields(entry);
    const name = checkFileName(path, repo);
    if (type !== "file") continue;
    const large = lfs === undefined || lfs === null ? undefined : fields(lfs);
    const [bytes, etag] = large === undefined ? [size, oid] : [large["size"], large["oid"]];
    if (typeof bytes !== "number" || !Number.isSafeInteger(bytes) || bytes < 0)
      throw new UserError(`${repo}: ${shown(name)}: the hub lists a size of ${shown(bytes)}`);
    // The hash becomes a file's name.
    const form = large === undefined ? /^([0-9a-f]{40}|[0-9a-f]{64})$/ : /^[0-9a-f]{64}$/;
    if (typeof etag !== "string" || !form.test(etag))
      throw new UserError(`${repo}: ${shown(name)}: the hub lists a hash of ${shown(etag)}`);
    files.set(name, { name, bytes, etag, hash: large === undefined ? "git" : "sha256" });
  }
  return files;
}

function fields(value: unknown): Readonly<Record<"type" | "path" | "size" | "oid" | "lfs", unknown>> {
  return (typeof value === "object" && value !== null ? value : {}) as Readonly<Record<"type" | "path" | "size" | "oid" | "lfs", unknown>>;
}

/**
 * The files of a listing to download, weights last: never pickles, other formats, or what is for people to read.
 * @param shards the files that the listing's index of shards names; called only when the weights are in shards
 * @throws UserError when one is missing, or too large for what it is
 */
export async function chooseFiles(
  listing: ReadonlyMap<string, RemoteFile>,
  part: Part,
  repo: string,
  shards: (index: RemoteFile) => Promise<readonly string[]>,
): Promise<readonly RemoteFile[]> {
  const find = (name: string): RemoteFile => listing.get(name) ?? missing(listing, name, repo);
  const texts = [...required(part).map(find), ...optional(part).flatMap((name) => listing.get(name) ?? [])];
  for (const file of texts) checkTextSize(file, repo);
  if (part !== "model") return texts;
  const single = listing.get(weights);
  if (single !== undefined) return [...texts, single];
  const index = checkTextSize(find(shardIndex), repo);
  return [...texts, index, ...(await shards(index)).map(find)];
}

function checkTextSize(file: RemoteFile, repo: string): RemoteFile {
  if (file.bytes > mostTextBytes)
    throw new UserError(`${repo}: ${file.name} has ${file.bytes} bytes, which is more than the ${mostTextBytes} that it may have`);
  return file;
}

function missing(listing: ReadonlyMap<string, RemoteFile>, name: string, repo: string): never {
  if (name === shardIndex) {
    const other = [...listing.keys()].find((file) => /\.(bin|pt|pth|gguf|onnx|h5|msgpack)$|\.bin\.index\.json$/.test(file));
    throw new UserError(`${repo}: the repository has neither ${weights} nor ${shardIndex}`, {
      hint:
        other === undefined
          ? "give a repository that holds a model's weights as safetensors"
          : `it has ${shown(other)}, which is not read: look for a revision or repository with safetensors, or convert it (in Python: from_pretrained, then save_pretrained)`,
    });
  }
  throw new UserError(`${repo}: the repository has no ${shown(name)}`, {
    hint: name.endsWith(".safetensors")
      ? `${shardIndex} names it as a part of the weights: the upload is not complete`
      : name === tokenizer
        ? "give token ids instead of text, or the tokenizer of a repository that has this file"
        : "give a repository that holds a model of Transformers",
  });
}

/**
 * What is not in the cache of a commit, for sure or, with `certain`, possibly: a file that a model may do without counts as missing then
 * unless it is known that the commit has none.
 */
export async function missingFiles(cache: RepositoryCache, commit: string, part: Part, certain: boolean): Promise<readonly string[]> {
  const snapshot = snapshotPath(cache, commit);
  const has = async (name: string): Promise<boolean> => (await sizeOf(join(snapshot, name))) !== null;
  const lacking = async (names: readonly string[], there: (name: string) => Promise<boolean>): Promise<string[]> => {
    const found = await Promise.all(names.map(there));
    return names.filter((_, i) => !found[i]);
  };
  const missing = await lacking(required(part), has);
  if (certain) missing.push(...(await lacking(optional(part), async (name) => (await has(name)) || isMarkedAbsent(cache, commit, name))));
  if (part !== "model" || (await has(weights))) return missing;
  if (!(await has(shardIndex))) return [...missing, weights];
  return [...missing, ...(await lacking([...new Set(readShardIndex(join(snapshot, shardIndex)).values())], has))];
}

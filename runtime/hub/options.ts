import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { UserError } from "../errors.ts";

/** Bytes that have arrived, of the files that the cache did not have. What an earlier, interrupted download has left counts as arrived. */
export interface DownloadProgress {
  /** The file that is being received. */
  readonly file: string;
  readonly fileBytes: number;
  readonly fileTotal: number;
  /** Over all files. */
  readonly bytes: number;
  readonly total: number;
}

/** Where a model of the Hugging Face hub comes from. Nothing of this matters for a folder. */
export interface HubOptions {
  /** Branch, tag or commit; "main" unless given. A full commit hash that the cache has is opened without a request. */
  readonly revision?: string;
  /** Folder of downloaded models, in the layout that Python's huggingface_hub shares; HF_HUB_CACHE, or "hub" in HF_HOME, unless given. */
  readonly cacheDir?: string;
  /** Access token; HF_TOKEN, or the file "token" in HF_HOME, unless given. `false` sends none. */
  readonly token?: string | false;
  /** Take what the cache has and make no request, as HF_HUB_OFFLINE=1 does. */
  readonly localFilesOnly?: boolean;
  readonly onDownload?: (progress: DownloadProgress) => void;
  /** Stops the download. What has arrived is kept, and the next one goes on from there. */
  readonly signal?: AbortSignal;
}

/** The options with what the environment says. */
export interface HubSettings {
  /** Without a slash at its end. */
  readonly endpoint: string;
  readonly cacheDir: string;
  readonly token: string | null;
  readonly offline: boolean;
}

type Environment = Readonly<Record<string, string | undefined>>;

const publicHub = "https://huggingface.co";

/**
 * Reads the environment variables of Python's huggingface_hub: HF_HOME, HF_HUB_CACHE (or the older HUGGINGFACE_HUB_CACHE), HF_ENDPOINT,
 * HF_HUB_OFFLINE, HF_TOKEN, HF_TOKEN_PATH and HF_HUB_DISABLE_IMPLICIT_TOKEN. An empty variable is one that is not set.
 * @throws UserError when the endpoint is no http address, or the token cannot be read or cannot be one.
 */
export function hubSettings(
  options: Pick<HubOptions, "cacheDir" | "token" | "localFilesOnly">,
  environment: Environment = process.env,
): HubSettings {
  const get = (name: string): string | undefined => (environment[name] === "" ? undefined : environment[name]);
  const home = expandUser(get("HF_HOME") ?? join(get("XDG_CACHE_HOME") ?? "~/.cache", "huggingface"));
  const cacheDir = expandUser(options.cacheDir ?? get("HF_HUB_CACHE") ?? get("HUGGINGFACE_HUB_CACHE") ?? join(home, "hub"));
  const offline = options.localFilesOnly === true || isTrue(get("HF_HUB_OFFLINE"));
  return {
    endpoint: endpointOf(get("HF_ENDPOINT") ?? publicHub),
    cacheDir,
    token: offline ? null : tokenOf(options.token, home, get),
    offline,
  };
}

function expandUser(path: string): string {
  return /^~(?=$|[/\\])/.test(path) ? join(homedir(), path.slice(1)) : path;
}

/** What huggingface_hub takes for yes. */
function isTrue(value: string | undefined): boolean {
  return value !== undefined && ["1", "ON", "YES", "TRUE"].includes(value.toUpperCase());
}

function endpointOf(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || !/^https?:$/.test(url.protocol) || url.username !== "" || url.search !== "" || url.hash !== "")
    throw new UserError(`HF_ENDPOINT: expected the http(s) address of a hub, got ${JSON.stringify(text)}`, {
      hint: `unset it for ${publicHub}`,
    });
  return url.href.replace(/\/+$/, "");
}

function tokenOf(given: string | false | undefined, home: string, get: (name: string) => string | undefined): string | null {
  if (given === false || given === "") return null;
  if (given !== undefined) return checkToken(given, "token");
  if (isTrue(get("HF_HUB_DISABLE_IMPLICIT_TOKEN"))) return null;
  const variable = get("HF_TOKEN");
  if (variable !== undefined) return checkToken(variable, "HF_TOKEN");
  const file = expandUser(get("HF_TOKEN_PATH") ?? join(home, "token"));
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (cause) {
    const code = cause instanceof Error && "code" in cause ? cause.code : undefined;
    if (code === "ENOENT" || code === "ENOTDIR") return null;
    throw new UserError(`${file}: the access token cannot be read (${cause instanceof Error ? cause.message : String(cause)})`, { cause });
  }
  return text.trim() === "" ? null : checkToken(text, file);
}

/** A header can hold it. The message does not show it: error messages end up in logs. */
function checkToken(text: string, where: string): string {
  const token = text.trim();
  if (!/^[\x21-\x7e]+$/.test(token))
    throw new UserError(`${where}: an access token has no blanks, line breaks or letters outside ASCII`, {
      hint: "tokens of the hub begin with hf_",
    });
  return token;
}

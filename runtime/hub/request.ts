import { setTimeout as sleep } from "node:timers/promises";
import { shown, UserError } from "../errors.ts";

/** Whom requests go to, on whose behalf and about what: enough for headers and for messages. */
export interface Hub {
  /** Without a slash at its end. */
  readonly endpoint: string;
  readonly token: string | null;
  readonly repo: string;
  readonly revision: string;
  readonly signal: AbortSignal | undefined;
}

/** The hub cannot be reached, or does not serve: nothing is wrong with what was asked for, and a cache may have it. */
export class HubUnavailable extends UserError {}

/** What another try may mend. */
export class TransientError extends Error {
  /** Milliseconds that the server asks to wait; null when it names none. */
  readonly retryAfter: number | null;

  constructor(message: string, retryAfter: number | null = null) {
    super(message);
    this.retryAfter = retryAfter;
  }
}

const attempts = 5;
const firstDelay = 500;
/** A server that wants more patience than this is better asked by hand. */
const longestWait = 60_000;
const mostRedirects = 10;

/**
 * One GET, redirects followed. The token goes to the endpoint's own origin and nowhere else: a file's bytes come from other hosts, with
 * addresses that are signed already, and a hostile answer could name any host.
 * @returns the answer, which is 200 or 206
 * @throws UserError for what will not change by asking again; what `retrying` knows for the rest
 */
export async function send(hub: Hub, url: string, headers: Readonly<Record<string, string>> = {}): Promise<Response> {
  const home = new URL(hub.endpoint);
  let at = new URL(url, home);
  for (let hops = 0; hops <= mostRedirects; hops += 1) {
    const own = at.origin === home.origin;
    const response = await fetch(at, {
      headers: {
        "user-agent": "culm",
        // What is compressed on the way has another length, and its ranges mean nothing.
        "accept-encoding": "identity",
        ...headers,
        ...(own && hub.token !== null ? { authorization: `Bearer ${hub.token}` } : {}),
      },
      redirect: "manual",
      ...(hub.signal === undefined ? {} : { signal: hub.signal }),
    });
    if (response.status === 200 || response.status === 206) return response;
    await response.body?.cancel();
    if (![301, 302, 303, 307, 308].includes(response.status)) throw refusal(hub, response, at, own);
    at = redirected(response.headers.get("location"), at);
  }
  throw new UserError(`${url}: more than ${mostRedirects} redirects`, { hint: "check HF_ENDPOINT" });
}

function redirected(location: string | null, from: URL): URL {
  const to = location !== null && URL.canParse(location, from.href) ? new URL(location, from) : undefined;
  const allowed = from.protocol === "https:" ? ["https:"] : ["http:", "https:"];
  if (to === undefined || !allowed.includes(to.protocol) || to.username !== "" || to.password !== "")
    throw new UserError(`${from.origin}: redirects to ${shown(location)}, which is not followed`, { hint: "check HF_ENDPOINT" });
  return to;
}

/** What an answer other than 200, 206 and a redirect means. Codes in X-Error-Code are the hub's own. */
function refusal({ endpoint, token, repo, revision }: Hub, { status, headers }: Response, at: URL, own: boolean): Error {
  if (status === 408 || status === 429 || status >= 500)
    return new TransientError(`${at.origin} answers with status ${status}`, retryAfter(headers.get("retry-after")));
  if (!own) return new UserError(`${repo}: ${at.origin}, which the hub redirects to, answers with status ${status}`);
  const code = headers.get("x-error-code");
  const giveToken = "set HF_TOKEN, or give the token option (--token), to a token from the hub's settings";
  if (code === "GatedRepo")
    return new UserError(`${repo}: this model is gated: ${endpoint}/${repo} says under which conditions it is given`, {
      hint: token === null ? `accept them there, then ${giveToken}` : "accept them there with the account that the token belongs to",
    });
  if (code === "RevisionNotFound")
    return new UserError(`${repo}: there is no revision ${shown(revision)}`, {
      hint: `give a branch, tag or full commit hash that ${endpoint}/${repo} lists`,
    });
  if (code === "EntryNotFound") return new UserError(`${repo}: ${shown(decodeURI(at.pathname), 200)} is not there`);
  if (status === 401 && token !== null && code !== "RepoNotFound")
    return new UserError(`${repo}: ${endpoint} does not accept the access token`, {
      hint: "it may be mistyped or expired; check HF_TOKEN, the token option (--token) and the file token in HF_HOME",
    });
  // To whom it may not show a repository the hub says that there is none: with 401 to a stranger, with 404 to who has a token.
  if (status === 401 || status === 404)
    return new UserError(`${repo}: there is no folder of this name, and no model on ${endpoint} that ${who(token)} may read`, {
      hint: token === null ? `check the spelling; for a private model ${giveToken}` : "check the spelling, and what the token may read",
    });
  if (status === 403)
    return new UserError(`${repo}: ${endpoint} does not allow ${who(token)} to read this model`, {
      hint: token === null ? giveToken : "give the token the right to read this repository",
    });
  return new UserError(`${repo}: ${endpoint} answers with status ${status}`, { hint: "check HF_ENDPOINT" });
}

function who(token: string | null): string {
  return token === null ? "one without an access token" : "this access token";
}

/** Seconds or a date, as HTTP has it, in milliseconds from now. */
function retryAfter(header: string | null): number | null {
  if (header === null) return null;
  const wait = /^\d+$/.test(header.trim()) ? Number(header) * 1000 : Date.parse(header) - Date.now();
  return Number.isNaN(wait) ? null : Math.max(0, wait);
}

/**
 * Tries again, after a pause that doubles or that the server names, when a connection is cut or the server answers 408, 429 or 5xx.
 * @param progressed whether the last try got somewhere: then it does not count as a failed one
 * @throws HubUnavailable after five failed tries, at once when the server cannot be reached or wants more than a minute; the signal's reason
 */
export async function retrying<T>(hub: Hub, attempt: () => Promise<T>, progressed: () => boolean = () => false): Promise<T> {
  for (let failed = 0; ;) {
    try {
      return await attempt();
    } catch (error) {
      hub.signal?.throwIfAborted();
      const failure = error instanceof TransientError ? error : connectionFailure(hub, error);
      failed = progressed() ? 1 : failed + 1;
      const wait = failure.retryAfter ?? firstDelay * 2 ** (failed - 1);
      if (failed >= attempts) throw new HubUnavailable(`${hub.repo}: ${failure.message}, ${attempts} times in a row`, { cause: error });
      if (wait > longestWait)
        throw new HubUnavailable(`${hub.repo}: ${failure.message} and asks to wait ${Math.ceil(wait / 1000)} s`, { cause: error });
      await sleep(wait, undefined, hub.signal === undefined ? {} : { signal: hub.signal }).catch(() => hub.signal?.throwIfAborted());
    }
  }
}

/** Nobody listens there, or it is someone else: asking again at once is of no use. */
const unreachable = /^(ENOTFOUND|EAI_|ECONNREFUSED|ENET|EHOST|UND_ERR_CONNECT_TIMEOUT|CERT_|UNABLE_TO_|DEPTH_ZERO|SELF_SIGNED|ERR_TLS)/;

/** A cut connection, as something to try again. @throws HubUnavailable for a server out of reach, and whatever is no failure of a connection. */
function connectionFailure(hub: Hub, error: unknown): TransientError {
  // fetch throws a TypeError of little meaning with the socket's error as its cause.
  const cause: unknown = error instanceof TypeError ? error.cause : undefined;
  if (!(cause instanceof Error) || !("code" in cause) || typeof cause.code !== "string") throw error;
  const why = cause.message === "" ? cause.code : cause.message;
  if (unreachable.test(cause.code)) throw new HubUnavailable(`${hub.repo}: cannot reach ${hub.endpoint} (${why})`, { cause: error });
  return new TransientError(`the connection to ${hub.endpoint} breaks (${why})`);
}

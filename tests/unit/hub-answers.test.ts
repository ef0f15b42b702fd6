import { existsSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test, vi } from "vitest";
import { AutoModelForCausalLM, AutoTokenizer, resolveModel } from "../../models/auto/index.ts";
import type { HubOptions } from "../../models/auto/index.ts";
import { isUserError } from "../../runtime/errors.ts";
import { useHub } from "../support/hub-fixture.ts";
import { error, gitBlob } from "../support/hub-server.ts";
import type { TreeEntry } from "../support/hub-server.ts";

const fixture = useHub("hub-answers");
const token = "hf_secretsecretsecret";

/** What a load is refused with: message and hint, in which the token never is. */
async function refusal(name = "org/tiny", options: HubOptions = {}): Promise<{ message: string; hint: string }> {
  const failed: unknown = await resolveModel(name, options).then(
    () => undefined,
    (e: unknown) => e,
  );
  if (!isUserError(failed)) throw new Error("expected a UserError", { cause: failed });
  expect(`${failed.message} ${failed.hint ?? ""}`).not.toContain(token);
  return { message: failed.message, hint: failed.hint ?? "" };
}

const answering = (status: number, code?: string): void => {
  fixture.hub.fault = (_, response) => (error(response, status, code), true);
};

describe("who may not read it is told why, and what to do", () => {
  test("no such repository, or a private one, to a stranger (401)", async () => {
    const { message, hint } = await refusal("org/nothing");
    expect(message).toMatch(
      /^org\/nothing: there is no folder of this name, and no model on http.* that one without an access token may read/,
    );
    expect(hint).toMatch(/spelling.*HF_TOKEN/);
  });

  test("the same with a token (404)", async () => {
    const { message, hint } = await refusal("nothing", { token });
    expect(message).toMatch(/^nothing: .* no model on http.* that this access token may read/);
    expect(hint).toContain("spelling");
  });

  test("a token that is not accepted", async () => {
    answering(401);
    const { message, hint } = await refusal("org/tiny", { token });
    expect(message).toMatch(/does not accept the access token/);
    expect(hint).toContain("HF_TOKEN");
  });

  test("gated, without and with a token", async () => {
    answering(401, "GatedRepo");
    expect((await refusal()).hint).toMatch(/accept them there, then set HF_TOKEN/);
    answering(403, "GatedRepo");
    const { message, hint } = await refusal("org/tiny", { token });
    expect(message).toContain(`is gated: ${fixture.hub.endpoint}/org/tiny`);
    expect(hint).toMatch(/account that the token belongs to/);
  });

  test("a token without the right to read", async () => {
    answering(403);
    expect((await refusal("org/tiny", { token })).message).toMatch(/does not allow this access token to read/);
  });

  test("no such revision: a branch, and a commit", async () => {
    expect((await refusal("org/tiny", { revision: "v9" })).message).toBe('org/tiny: there is no revision "v9"');
    const commit = "f".repeat(40);
    expect((await refusal("org/tiny", { revision: commit })).message).toBe(`org/tiny: there is no revision "${commit}"`);
  });

  test("what a client cannot know", async () => {
    answering(418);
    expect((await refusal()).message).toMatch(/answers with status 418/);
  });
});

describe("a repository that cannot be run", () => {
  test("with a pickle only", async () => {
    fixture.hub.files.delete("model.safetensors");
    const { message, hint } = await refusal();
    expect(message).toBe("org/tiny: the repository has neither model.safetensors nor model.safetensors.index.json");
    expect(hint).toMatch(/"pytorch_model.bin", which is not read: .*convert/);
    expect(fixture.hub.requests("/resolve/")).toEqual([]);
  });

  test("without config.json, without tokenizer.json, without one of its shards", async () => {
    fixture.hub.files.delete("config.json");
    expect((await refusal()).message).toContain('has no "config.json"');
    fixture.hub.files.delete("tokenizer.json");
    await expect(AutoTokenizer.fromPretrained("org/tiny")).rejects.toThrow('has no "tokenizer.json"');
    fixture.hub.files.set("config.json", Buffer.from("{}"));
    fixture.hub.files.delete("model.safetensors");
    fixture.hub.files.set("model.safetensors.index.json", Buffer.from('{"weight_map": {"a": "model-00001-of-00001.safetensors"}}'));
    const { message, hint } = await refusal();
    expect(message).toContain('has no "model-00001-of-00001.safetensors"');
    expect(hint).toContain("not complete");
  });

  test("a configuration that is wrong is refused as one in a folder is", async () => {
    fixture.hub.files.set("config.json", Buffer.from('{"model_type": "llama"}'));
    await expect(AutoModelForCausalLM.fromPretrained("org/tiny")).rejects.toThrow(/config\.json: .*model_type.*"llama"/);
  });
});

describe("a hostile server", () => {
  const outside = (): readonly string[] => readdirSync(join(fixture.home, ".."), { recursive: true, encoding: "utf8" });

  test.each(["../../evil", "/etc/evil", "a/../../evil", "C:\\evil", "\\\\host\\evil", "..\\evil", "a/./evil", "", "nul\0evil", 7])(
    "a file named %j",
    async (path) => {
      fixture.hub.tree = (entries) => [...entries, { type: "file", path, size: 4, oid: gitBlob(Buffer.from("evil")) }];
      expect((await refusal()).message).toMatch(/the hub lists a file named .*leads out of the model's folder/);
      expect(outside().filter((name) => name.includes("evil"))).toEqual([]);
      expect(fixture.hub.requests("/resolve/")).toEqual([]);
    },
  );

  test.each(["../../../evil.safetensors", "/evil.safetensors", "sub/evil.safetensors", "model.bin"])("a shard named %j", async (name) => {
    fixture.hub.files.delete("model.safetensors");
    fixture.hub.files.set("model.safetensors.index.json", Buffer.from(JSON.stringify({ weight_map: { a: name } })));
    expect((await refusal()).message).toMatch(/weight_map of "a": expected the name of a \.safetensors file beside the index/);
    expect(outside().filter((file) => file.includes("evil"))).toEqual([]);
  });

  const config = (change: (entry: TreeEntry) => unknown) => (entries: TreeEntry[]) =>
    entries.map((entry) => (entry.path === "config.json" ? change(entry) : entry));
  test.each<readonly [string, (entries: TreeEntry[]) => unknown, RegExp]>([
    ["a hash that is a path", config((e) => ({ ...e, oid: "../../evil" })), /"config\.json": the hub lists a hash of "\.\.\/\.\.\/evil"/],
    ["no hash", config((e) => ({ ...e, oid: null })), /a hash of null/],
    ["a negative size", config((e) => ({ ...e, size: -1 })), /a size of -1/],
    ["a size that is text", config((e) => ({ ...e, size: "4" })), /a size of "4"/],
    ["LFS without a size", config((e) => ({ ...e, lfs: { oid: "0".repeat(64) } })), /a size of undefined/],
    ["entries that are no objects", () => [1, null], /a file named undefined/],
    [
      "a configuration that would fill the disk",
      config((e) => ({ ...e, size: 1e12 })),
      /config\.json has 1000000000000 bytes, which is more/,
    ],
    ["files without end", (e) => Array.from({ length: 10_001 }, () => e[0]), /more than 10000 files/],
  ])("a listing with %s", async (_, tree, message) => {
    fixture.hub.tree = tree;
    expect((await refusal()).message).toMatch(message);
    expect(fixture.hub.requests("/resolve/")).toEqual([]);
  });

  test("a commit that is a path", async () => {
    fixture.hub.refs.set("main", "../../evil");
    expect((await refusal()).message).toMatch(/the hub gives "\.\.\/\.\.\/evil" as the commit of "main"/);
  });

  test("a log-in page in place of JSON", async () => {
    fixture.hub.fault = (_, response) => (response.writeHead(200, { "content-type": "text/html" }).end("<html>"), true);
    const { message, hint } = await refusal();
    expect(message).toMatch(/answers with something other than a hub's JSON/);
    expect(hint).toContain("log-in page");
  });

  test.each(["null", "{}", "3", '{"sha": 5}', "["])("JSON of another form: %s", async (text) => {
    const answer = (part: string): void => {
      fixture.hub.fault = (request, response) => request.url!.includes(part) && (response.writeHead(200).end(text), true);
    };
    answer("/revision/");
    expect((await refusal()).message).toMatch(/something other than a hub's JSON|as the commit of "main"/);
    answer("/tree/");
    expect((await refusal()).message).toMatch(/something other than a hub's JSON/);
  });

  test.each([["file:///etc/passwd"], ["ftp://x/y"], ["http://user:password@127.0.0.1/"], ["http://["], [undefined]])(
    "a redirect to %s",
    async (location) => {
      fixture.hub.fault = (_, response) => (response.writeHead(302, location === undefined ? {} : { location }).end(), true);
      expect((await refusal()).message).toMatch(/redirects to .*, which is not followed/);
    },
  );

  test("redirects without end", async () => {
    fixture.hub.fault = (request, response) => (response.writeHead(302, { location: request.url }).end(), true);
    expect((await refusal()).message).toMatch(/more than 10 redirects/);
    expect(fixture.hub.log).toHaveLength(11);
  });

  test("an address of a file that has expired is no matter of the token", async () => {
    fixture.hub.fault = (_, response, host) => host === "cdn" && (error(response, 403), true);
    expect((await refusal("org/tiny", { token })).message).toMatch(/which the hub redirects to, answers with status 403/);
  });
});

describe("a disk that cannot take it", () => {
  test("too small: said before the first byte", async () => {
    fixture.hub.tree = (entries) =>
      entries.map((entry) => (entry.path === "model.safetensors" ? { ...entry, lfs: { ...entry.lfs!, size: 2 ** 52 } } : entry));
    const { message, hint } = await refusal();
    expect(message).toMatch(/the disk has \d+ bytes left, and 45\d+ are needed/);
    expect(hint).toContain("--cache-dir");
    expect(fixture.hub.requests("/resolve/")).toEqual([]);
  });

  test("a cache that is a file", async () => {
    const cacheDir = fixture.fresh();
    writeFileSync(cacheDir, "");
    const { message, hint } = await refusal("org/tiny", { cacheDir });
    expect(message).toContain(`${cacheDir}: the cache cannot be written`);
    expect(hint).toContain("HF_HUB_CACHE");
  });
});

describe("bad options are refused before a request", () => {
  test.each(["", "a..b", "../up", "/abs", "a//b", "a b", "a\\b", "x:y", ".hidden", "end.", "a".repeat(201)])(
    "revision %j",
    async (revision) => {
      expect((await refusal("org/tiny", { revision })).message).toMatch(/^revision: expected a branch, tag or commit/);
      expect(fixture.hub.log).toEqual([]);
    },
  );

  test("a token with a line break, an endpoint that is none, a signal that is aborted", async () => {
    expect((await refusal("org/tiny", { token: "hf_a\r\nevil: header" })).message).toMatch(/^token: .*line breaks/);
    vi.stubEnv("HF_ENDPOINT", "huggingface.co");
    expect((await refusal()).message).toMatch(/^HF_ENDPOINT: expected the http\(s\) address of a hub, got "huggingface\.co"/);
    vi.stubEnv("HF_ENDPOINT", fixture.hub.endpoint);
    const reason = new Error("never mind");
    await expect(resolveModel("org/tiny", { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    expect(fixture.hub.log).toEqual([]);
    expect(existsSync(fixture.place())).toBe(false);
  });
});

import { downloadFileToCacheDir, scanCacheDir } from "@huggingface/hub";
import { lstatSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test, vi } from "vitest";
import { AutoModelForCausalLM, AutoTokenizer, BambaConfig, resolveModel } from "../../models/auto/index.ts";
import type { DownloadProgress, LoadOptions } from "../../models/auto/index.ts";
import { openCheckpoint } from "../../runtime/node/checkpoint.ts";
import { writeSafetensors } from "../../runtime/node/write-safetensors.ts";
import { culm } from "../support/cli.ts";
import { repository, useHub } from "../support/hub-fixture.ts";
import { etagOf } from "../support/hub-server.ts";
import { goldenFolder, tinyFolder } from "../support/model-folder.ts";
import { forwarded } from "../support/running.ts";

const fixture = useHub("hub");
const inCache = fixture.place;
const base = goldenFolder("base");
const interpreted: LoadOptions = { backend: "interpret", maxLength: 64 };

async function logitsOf(name: string, options: LoadOptions = {}): Promise<Float32Array> {
  const model = await AutoModelForCausalLM.fromPretrained(name, { ...interpreted, ...options });
  try {
    return (await forwarded(model, { inputIds: [[5, 9, 200, 31]] })).logits;
  } finally {
    await model.close();
  }
}

describe("a model by its name", () => {
  test("gives the logits of the same files in a folder, and is in the cache as the Hugging Face libraries have it", async () => {
    expect(await logitsOf("org/tiny")).toEqual(await logitsOf(base));
    const commit = readFileSync(inCache("refs", "main"), "utf8");
    expect(commit).toBe(fixture.hub.commit);
    const wanted = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    expect(readdirSync(inCache("snapshots", commit)).sort()).toEqual(wanted);
    expect(readdirSync(inCache("blobs")).sort()).toEqual(wanted.map((name) => etagOf(repository.get(name)!)).sort());
    for (const name of wanted) {
      expect(readlinkSync(inCache("snapshots", commit, name))).toBe(`../../blobs/${etagOf(repository.get(name)!)}`);
      expect(readFileSync(inCache("snapshots", commit, name)).equals(repository.get(name)!)).toBe(true);
    }
    expect(readdirSync(inCache(".no_exist", commit)).sort()).toEqual([
      "chat_template.jinja",
      "chat_template.json",
      "special_tokens_map.json",
    ]);
    expect(readdirSync(fixture.place("..", ".locks", "models--org--tiny"))).toEqual([]);
  });

  test("the Hugging Face library reads that cache without a complaint, and takes a file of it without a request", async () => {
    const folder = await resolveModel("org/tiny");
    const { repos, warnings } = await scanCacheDir(fixture.place(".."));
    expect(warnings).toEqual([]);
    expect(repos).toMatchObject([
      { id: { type: "model", name: "org/tiny" }, filesCount: 5, revisions: [{ commitOid: fixture.hub.commit, refs: ["main"] }] },
    ]);
    const fetch = (): never => expect.fail("a request was made");
    const given = { repo: "org/tiny", revision: fixture.hub.commit, cacheDir: fixture.place(".."), fetch };
    expect(await downloadFileToCacheDir({ ...given, path: "config.json" })).toBe(join(folder, "config.json"));
  });

  test("a cache that another library has filled, which does not note what a commit lacks, serves as well", async () => {
    const folder = await resolveModel("org/tiny");
    rmSync(fixture.place(".no_exist"), { recursive: true });
    fixture.hub.log.length = 0;
    expect(await resolveModel("org/tiny", { localFilesOnly: true })).toBe(folder);
    expect(fixture.hub.log).toEqual([]);
    // Online the hub is asked once whether there is more.
    for (let i = 0; i < 2; i += 1) expect(await resolveModel("org/tiny", { revision: fixture.hub.commit })).toBe(folder);
    expect(fixture.hub.log.map(({ path }) => path)).toEqual([`/api/models/org/tiny/tree/${fixture.hub.commit}`]);
  });

  test("the second time one request tells that nothing has changed, and a commit hash takes none", async () => {
    const folder = await resolveModel("org/tiny");
    fixture.hub.log.length = 0;
    expect(await resolveModel("org/tiny")).toBe(folder);
    expect(fixture.hub.log.map(({ path }) => path)).toEqual([`/api/models/org/tiny/revision/main`]);
    fixture.hub.log.length = 0;
    expect(await resolveModel("org/tiny", { revision: fixture.hub.commit })).toBe(folder);
    expect(fixture.hub.log).toEqual([]);
  });

  test("a commit hash that the cache does not have is downloaded, without a ref", async () => {
    const folder = await resolveModel("org/tiny", { revision: fixture.hub.commit });
    expect(readFileSync(join(folder, "model.safetensors")).equals(repository.get("model.safetensors")!)).toBe(true);
    expect(() => lstatSync(inCache("refs"))).toThrow("ENOENT");
  });

  test("branches and tags with slashes", async () => {
    fixture.hub.refs.set("refs/pr/1", fixture.hub.commit);
    expect(await resolveModel("org/tiny", { revision: "refs/pr/1" })).toBe(inCache("snapshots", fixture.hub.commit));
    expect(readFileSync(inCache("refs", "refs", "pr", "1"), "utf8")).toBe(fixture.hub.commit);
  });

  test("a configuration takes config.json only", async () => {
    expect(await BambaConfig.fromPretrained("org/tiny")).toEqual(await BambaConfig.fromPretrained(base));
    expect(readdirSync(inCache("snapshots", fixture.hub.commit))).toEqual(["config.json"]);
    fixture.hub.log.length = 0;
    await BambaConfig.fromPretrained("org/tiny", { localFilesOnly: true });
    expect(fixture.hub.log).toEqual([]);
  });

  test("a tokenizer takes its own files only, and the model then takes the rest", async () => {
    const tokenizer = await AutoTokenizer.fromPretrained("org/tiny");
    expect(tokenizer.encode("It was")).toEqual((await AutoTokenizer.fromPretrained(tinyFolder)).encode("It was"));
    expect(readdirSync(inCache("snapshots", fixture.hub.commit)).sort()).toEqual(["tokenizer.json", "tokenizer_config.json"]);
    fixture.hub.log.length = 0;
    await resolveModel("org/tiny");
    expect(fixture.hub.requests("/resolve/").map(({ path }) => path.split("/").at(-1))).toEqual([
      "config.json",
      "generation_config.json",
      "model.safetensors",
    ]);
  });

  test("shards: the index, and exactly the files that it names", async () => {
    const checkpoint = openCheckpoint(base);
    const tensors = [...checkpoint.tensors.values()].map((t) => ({ ...t, data: checkpoint.read(t.name) }));
    checkpoint.close();
    const places: Record<string, string> = {};
    fixture.hub.files.delete("model.safetensors");
    for (const part of [0, 1, 2]) {
      const name = `model-0000${part + 1}-of-00003.safetensors`;
      const file = fixture.fresh();
      const own = tensors.filter((_, i) => i % 3 === part);
      writeSafetensors(file, own);
      for (const tensor of own) places[tensor.name] = name;
      fixture.hub.files.set(name, readFileSync(file));
    }
    fixture.hub.files.set("model-00004-of-00003.safetensors", Buffer.from("of nobody"));
    fixture.hub.files.set("model.safetensors.index.json", Buffer.from(JSON.stringify({ metadata: {}, weight_map: places })));
    const progress: DownloadProgress[] = [];
    expect(await logitsOf("org/tiny", { onDownload: (p) => progress.push(p) })).toEqual(await logitsOf(base));
    const names = readdirSync(inCache("snapshots", fixture.hub.commit)).filter((name) => name.startsWith("model"));
    expect(names.sort()).toEqual([...new Set(Object.values(places)), "model.safetensors.index.json"].sort());
    // The offline check knows the shards too.
    expect(await resolveModel("org/tiny", { localFilesOnly: true })).toBe(inCache("snapshots", fixture.hub.commit));
  });

  test("progress: every file from its first byte to its last, all of them together to the total", async () => {
    const progress: DownloadProgress[] = [];
    await resolveModel("org/tiny", { onDownload: (p) => progress.push(p) });
    const files = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"];
    expect([...new Set(progress.map(({ file }) => file))]).toEqual(files);
    const total = files.reduce((sum, name) => sum + repository.get(name)!.length, 0);
    expect(progress.every((p) => p.total === total && p.fileTotal === repository.get(p.file)!.length)).toBe(true);
    expect(progress.every((p, i) => i === 0 || p.bytes >= progress[i - 1]!.bytes)).toBe(true);
    expect(progress.at(-1)).toMatchObject({ bytes: total, fileBytes: repository.get("model.safetensors")!.length });
  });

  test("a folder of that name goes first", async () => {
    expect(await resolveModel("models/bamba-tiny")).toBe("models/bamba-tiny");
    expect(await resolveModel("./nowhere")).toBe("./nowhere");
    expect(fixture.hub.log).toEqual([]);
  });
});

describe("access", () => {
  const token = "hf_secretsecretsecret";
  const seen = (host: "hub" | "cdn"): unknown[] => [...new Set(fixture.hub.log.filter((r) => r.host === host).map((r) => r.authorization))];

  test("the token goes to the hub, and never to the host that a file comes from", async () => {
    await resolveModel("org/tiny", { token });
    expect(seen("hub")).toEqual([`Bearer ${token}`]);
    expect(fixture.hub.log.filter(({ host }) => host === "cdn").length).toBeGreaterThan(0);
    expect(seen("cdn")).toEqual([undefined]);
  });

  test("nor to a host that the listing sends the client to for its next page", async () => {
    fixture.hub.fault = (request, response, host) => {
      if (host !== "hub" || !request.url!.includes("/tree/")) return false;
      const other = `http://localhost:${new URL(fixture.hub.endpoint).port}/cdn-like?next`;
      response.writeHead(200, { "content-type": "application/json", link: `<${other}>; rel="next"` }).end("[]");
      return true;
    };
    await expect(resolveModel("org/tiny", { token })).rejects.toThrow("org/tiny");
    expect(fixture.hub.requests("/cdn-like").map(({ authorization }) => authorization)).toEqual([undefined]);
  });

  test("from HF_TOKEN, from the file in HF_HOME, and not at all", async () => {
    vi.stubEnv("HF_TOKEN", `${token}\n`);
    await resolveModel("org/tiny", { part: "tokenizer" });
    await resolveModel("org/tiny", { part: "tokenizer", token: false });
    vi.stubEnv("HF_TOKEN", "");
    writeFileSync(join(fixture.home, "token"), "hf_file");
    await resolveModel("org/tiny", { part: "tokenizer" });
    expect(fixture.hub.requests("/revision/").map(({ authorization }) => authorization)).toEqual([
      `Bearer ${token}`,
      undefined,
      "Bearer hf_file",
    ]);
  });
});

describe("offline", () => {
  test("from the cache without a request", async () => {
    const online = await logitsOf("org/tiny");
    fixture.hub.log.length = 0;
    vi.stubEnv("HF_HUB_OFFLINE", "1");
    expect(await logitsOf("org/tiny")).toEqual(online);
    expect((await AutoTokenizer.fromPretrained("org/tiny")).vocabSize).toBe(4096);
    vi.stubEnv("HF_HUB_OFFLINE", "");
    expect(await resolveModel("org/tiny", { localFilesOnly: true, revision: fixture.hub.commit })).toBe(
      inCache("snapshots", fixture.hub.commit),
    );
    expect(fixture.hub.log).toEqual([]);
  });

  test("says what the cache lacks: all, a revision, or the weights", async () => {
    const offline = { localFilesOnly: true };
    await expect(resolveModel("org/tiny", offline)).rejects.toThrow(/^org\/tiny: .*revision "main" is not in the cache/);
    await AutoTokenizer.fromPretrained("org/tiny");
    await expect(resolveModel("org/tiny", offline)).rejects.toThrow(/has not got config\.json, model\.safetensors of revision "main"/);
    await expect(resolveModel("org/tiny", { ...offline, revision: "v2" })).rejects.toThrow(/revision "v2" is not in the cache/);
    expect(fixture.hub.requests("model.safetensors")).toEqual([]);
  });

  test("a hub that is gone: the message says whether the cache has it", async () => {
    await resolveModel("org/tiny");
    await fixture.hub.close();
    await expect(resolveModel("org/other")).rejects.toThrow(/cannot reach http:\/\/127.*ECONNREFUSED.*has not got revision "main"/);
    const error = await resolveModel("org/tiny").catch((e: unknown) => e);
    expect(error).toMatchObject({ name: "UserError", message: expect.stringContaining('the cache has revision "main"') as string });
    expect((error as { hint: string }).hint).toContain("HF_HUB_OFFLINE=1");
  });
});

test("culm generate --model org/name, with flags for the revision, the cache and staying offline", async () => {
  fixture.hub.refs.set("v1", fixture.hub.commit);
  // The golden model's vocabulary is smaller than the tokenizer's.
  for (const name of ["config.json", "generation_config.json", "model.safetensors"])
    fixture.hub.files.set(name, readFileSync(join(tinyFolder, name)));
  const other = fixture.fresh();
  const flags = ["generate", "--prompt", "It was", "--max-new-tokens", "3", "--backend", "interpret", "--max-length", "32"];
  const ofHub = [...flags, "--model", "org/tiny", "--revision", "v1", "--cache-dir", other];
  const local = await culm(...flags, "--model", tinyFolder);
  const online = await culm(...ofHub, "--token", "hf_flag");
  expect(online).toMatchObject({ code: 0, out: local.out });
  expect(fixture.hub.requests("/revision/v1")[0]!.authorization).toBe("Bearer hf_flag");
  const missing = await culm(...flags, "--model", "org/nothing");
  expect(missing).toMatchObject({ code: 1, out: "" });
  expect(missing.err).toMatch(/^error: org\/nothing: there is no folder of this name, and no model on http.*\nhint: .*HF_TOKEN/);
  // The other commands that open no model take a name too, and only what they need.
  const empty = fixture.fresh();
  const tokens = await culm("tokenize", "--model", "org/tiny", "--cache-dir", empty, "--json", "It was");
  expect(tokens).toMatchObject({ code: 0, out: (await culm("tokenize", "--model", tinyFolder, "--json", "It was")).out });
  const out = fixture.fresh();
  const converted = await culm("convert", "--model", "org/tiny", "--revision", "v1", "--cache-dir", other, "--out", out);
  expect(converted.code).toBe(0);
  expect(readFileSync(join(out, "model.safetensors")).equals(readFileSync(join(tinyFolder, "model.safetensors")))).toBe(true);
  await fixture.hub.close();
  expect(await culm(...ofHub, "--offline")).toMatchObject({ code: 0, out: local.out });
});

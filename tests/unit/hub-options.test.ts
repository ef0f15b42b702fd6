import fc from "fast-check";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join, resolve, sep } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { checkFileName, checkRevision, isCommit, isRepositoryName } from "../../runtime/hub/names.ts";
import { hubSettings } from "../../runtime/hub/options.ts";

const home = mkdtempSync(join(tmpdir(), "culm-hub-options-"));
afterAll(() => rmSync(home, { recursive: true }));

describe("names", () => {
  test.each(["gpt2", "org/name", "ibm-fm/Bamba-9B", "a.b/c_d", "_x/y"])("%s is a repository", (name) =>
    expect(isRepositoryName(name)).toBe(true),
  );
  test.each([
    "",
    "/abs",
    "./x",
    "../x",
    "a/b/c",
    "a/",
    "/a",
    "a//b",
    "a--b/c",
    "a..b",
    "a/.b",
    "a./b",
    "a/b-",
    "-a/b",
    "x.git",
    "a\\b",
    "C:x",
    "a b",
    "ä/b",
    "x".repeat(97),
  ])("%s is none", (name) => expect(isRepositoryName(name)).toBe(false));

  test("only a full hash is a commit", () => {
    expect([isCommit("0".repeat(40)), isCommit("0".repeat(39)), isCommit("A".repeat(40)), isCommit(`${"0".repeat(40)}\n`)]).toEqual([
      true,
      false,
      false,
      false,
    ]);
  });

  const part = fc.oneof(fc.constantFrom("..", ".", "", "a", "C:", "x y", "\0"), fc.string({ maxLength: 5 }));
  const path = fc.array(part, { maxLength: 5 }).chain((parts) => fc.constantFrom("/", "\\").map((separator) => parts.join(separator)));
  const accepted = (check: () => void): boolean => {
    try {
      check();
      return true;
    } catch {
      return false;
    }
  };

  test("whatever file name, revision or repository is accepted stays below the folder that it is joined to", () => {
    fc.assert(
      fc.property(path, (text) => {
        const inside = resolve("/cache", text).startsWith(`${resolve("/cache")}${sep}`);
        if (accepted(() => checkFileName(text, "r"))) expect(inside).toBe(true);
        if (accepted(() => checkRevision(text))) expect(inside).toBe(true);
        if (isRepositoryName(text)) expect(inside).toBe(true);
      }),
      { numRuns: 2000 },
    );
  });

  test.each(["main", "v1.0", "refs/pr/12", "feature/a-b_c", "release@2"])("%s is a revision", (name) =>
    expect(checkRevision(name)).toBe(name),
  );
});

describe("settings", () => {
  test("defaults", () => {
    expect(hubSettings({}, {})).toEqual({
      endpoint: "https://huggingface.co",
      cacheDir: join(homedir(), ".cache", "huggingface", "hub"),
      token: expect.toSatisfy((token) => token === null || typeof token === "string") as unknown,
      offline: false,
    });
  });

  test.each([
    [{ XDG_CACHE_HOME: "/xdg" }, "/xdg/huggingface/hub"],
    [{ XDG_CACHE_HOME: "/xdg", HF_HOME: "/hf" }, "/hf/hub"],
    [{ HF_HOME: "~/hf" }, join(homedir(), "hf", "hub")],
    [{ HF_HOME: "/hf", HUGGINGFACE_HUB_CACHE: "/old" }, "/old"],
    [{ HF_HOME: "/hf", HUGGINGFACE_HUB_CACHE: "/old", HF_HUB_CACHE: "/new" }, "/new"],
    [{ HF_HOME: "/hf", HF_HUB_CACHE: "" }, "/hf/hub"],
  ])("the cache of %j is %s", (environment, cacheDir) => {
    expect(hubSettings({ token: false }, environment).cacheDir).toBe(cacheDir);
    expect(hubSettings({ token: false, cacheDir: "/given" }, environment).cacheDir).toBe("/given");
  });

  test.each([
    ["1", true],
    ["true", true],
    ["YES", true],
    ["on", true],
    ["0", false],
    ["false", false],
    ["", false],
  ])("HF_HUB_OFFLINE=%s", (HF_HUB_OFFLINE, offline) => {
    expect(hubSettings({ token: false }, { HF_HUB_OFFLINE }).offline).toBe(offline);
    expect(hubSettings({ token: false, localFilesOnly: true }, { HF_HUB_OFFLINE }).offline).toBe(true);
    expect(hubSettings({ token: false, localFilesOnly: false }, { HF_HUB_OFFLINE }).offline).toBe(offline);
  });

  test("the token: given, from HF_TOKEN, from a file, or none", () => {
    const file = join(home, "token");
    const environment = { HF_HOME: home, HF_TOKEN: "hf_variable" };
    expect(hubSettings({ token: "hf_given" }, environment).token).toBe("hf_given");
    expect(hubSettings({ token: false }, environment).token).toBe(null);
    expect(hubSettings({}, environment).token).toBe("hf_variable");
    expect(hubSettings({ localFilesOnly: true }, environment).token).toBe(null);
    expect(hubSettings({}, { HF_HOME: home }).token).toBe(null);
    writeFileSync(file, "  hf_file\n");
    expect(hubSettings({}, { HF_HOME: home }).token).toBe("hf_file");
    expect(hubSettings({}, { HF_HOME: "/nowhere", HF_TOKEN_PATH: file }).token).toBe("hf_file");
    expect(hubSettings({}, { ...environment, HF_HUB_DISABLE_IMPLICIT_TOKEN: "1" }).token).toBe(null);
    expect(hubSettings({ token: "hf_given" }, { ...environment, HF_HUB_DISABLE_IMPLICIT_TOKEN: "1" }).token).toBe("hf_given");
    expect(() => hubSettings({}, { HF_HOME: "/nowhere", HF_TOKEN_PATH: home })).toThrow(`${home}: the access token cannot be read`);
  });

  test("the endpoint", () => {
    const endpoint = (HF_ENDPOINT: string): string => hubSettings({ token: false }, { HF_ENDPOINT }).endpoint;
    expect(endpoint("https://mirror.example/hf/")).toBe("https://mirror.example/hf");
    expect(endpoint("")).toBe("https://huggingface.co");
    for (const wrong of ["mirror.example", "ftp://x", "https://user@x", "https://x?y", "javascript:alert(1)"])
      expect(() => endpoint(wrong)).toThrow("HF_ENDPOINT");
  });
});

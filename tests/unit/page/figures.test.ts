import { describe, expect, test } from "vitest";
import { formatBytes, formatCount, formatTime } from "../../../runtime/format.ts";
import { adviceFor } from "../../../runtime/web/page/browsers.ts";
import { lanesOf, limitsOf } from "../../../runtime/web/page/device.ts";
import { formatLimit, formatShare, formatStep, limitName, sentence } from "../../../runtime/web/page/format.ts";

test.each([
  [formatBytes(999), "999 B"],
  [formatBytes(14_100_000), "14.1 MB"],
  [formatCount(6_825_584), "6.8 M"],
  [formatTime(1530), "1.53 s"],
  [formatStep(0.0312), "31.2 µs"],
  [formatStep(1.5), "1.50 ms"],
  [formatShare(0), "0 %"],
  [formatShare(0.034), "3.4 %"],
  [formatShare(0.734), "73 %"],
  [formatLimit("maxStorageBufferBindingSize", 134_217_728), "128 MiB"],
  [formatLimit("maxStorageBufferBindingSize", 2 ** 31 - 4), "2 GiB"],
  [formatLimit("maxComputeWorkgroupStorageSize", 49_152), "48 KiB"],
  [formatLimit("maxBufferSize", 12), "12 B"],
  [formatLimit("maxComputeInvocationsPerWorkgroup", 1024), "1,024"],
  [limitName("maxStorageBuffersPerShaderStage"), "storage buffers per shader stage"],
  [sentence("the model is too large: 3 GB"), "The model is too large: 3 GB"],
  [sentence("model.json: expected version 1"), "model.json: expected version 1"],
  [sentence("maxBufferSize 12 (wanted 14)"), "maxBufferSize 12 (wanted 14)"],
  [sentence("http://a/model.json: not found"), "http://a/model.json: not found"],
  [sentence(""), ""],
])("%s", (got, expected) => expect(got).toBe(expected));

describe("the adapter", () => {
  const adapter = {
    name: "a GPU",
    vendor: "",
    architecture: "",
    device: "",
    description: "",
    features: [],
    limits: { maxBufferSize: 2 ** 28, maxBindGroups: 4, maxTextureDimension1D: 8192 },
    subgroupMinSize: 8,
    subgroupMaxSize: 32,
  };

  test("shows the limits that matter and those that the model asks for, with what it asks", () => {
    const requires = { features: [], limits: { maxBindGroups: 2 }, subgroup: null };
    expect(limitsOf({ adapter, requires })).toEqual([
      { name: "buffer size", offered: "256 MiB", needed: null },
      { name: "bind groups", offered: "4", needed: "2" },
    ]);
  });

  test("shows the lanes of its subgroups where it tells", () => {
    expect(lanesOf(adapter)).toBe("8 to 32");
    expect(lanesOf({ ...adapter, subgroupMinSize: 32 })).toBe("32");
    expect(lanesOf({ ...adapter, subgroupMinSize: 0, subgroupMaxSize: 0 })).toBeNull();
  });
});

describe("what to do without WebGPU", () => {
  test.each([
    ["Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox"],
    ["Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/112.0.0.0 Safari/537.36", "Chrome and Edge"],
    [
      "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/112.0.0.0 Safari/537.36 Edg/112.0",
      "Chrome and Edge",
    ],
    ["Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.4 Safari/605.1.15", "Safari"],
    // Every browser on iOS is Safari inside.
    [
      "Mozilla/5.0 (iPhone; CPU iPhone OS 17_4 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/123.0 Mobile/15E148 Safari/604.1",
      "Safari",
    ],
    [
      "Mozilla/5.0 (iPhone; CPU iPhone OS 17_4 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) FxiOS/124.0 Mobile/15E148 Safari/605.1.15",
      "Safari",
    ],
  ])("%s is told of %s first, and of the others", (userAgent, first) => {
    const names = adviceFor(userAgent).map(({ browser }) => browser);
    expect(names[0]).toBe(first);
    expect([...names].sort()).toEqual(["Chrome and Edge", "Firefox", "Safari"]);
  });

  test("a browser that nobody knows is told of all", () => expect(adviceFor("lynx")).toHaveLength(3));
});

// Numbers as people read them, on the command line as in the page.

const units = ["B", "kB", "MB", "GB", "TB"];

/** 14_100_000 as "14.1 MB". */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? value : significant(value)} ${units[unit]!}`;
}

/** Three digits. */
export function significant(value: number): string {
  if (!Number.isFinite(value)) return "-";
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

/** 6_800_000 as "6.8 M". */
export function formatCount(count: number): string {
  if (count >= 1e9) return `${(count / 1e9).toFixed(2)} B`;
  if (count >= 1e6) return `${(count / 1e6).toFixed(1)} M`;
  return count >= 1e3 ? `${(count / 1e3).toFixed(1)} k` : String(count);
}

/** 1530 as "1.53 s", 12.3 as "12 ms". */
export function formatTime(milliseconds: number): string {
  return milliseconds >= 1000
    ? `${significant(milliseconds / 1000)} s`
    : milliseconds >= 10
      ? `${milliseconds.toFixed(0)} ms`
      : `${significant(milliseconds)} ms`;
}

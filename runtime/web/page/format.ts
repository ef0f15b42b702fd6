import { formatTime, significant } from "../../format.ts";

/** A kernel's time: "31 µs", "1.24 ms". */
export function formatStep(milliseconds: number): string {
  return milliseconds < 1 ? `${significant(milliseconds * 1000)} µs` : formatTime(milliseconds);
}

/** 0.1234 as "12 %", 0.034 as "3.4 %". */
export function formatShare(share: number): string {
  const percent = share * 100;
  return `${percent >= 10 || percent === 0 ? percent.toFixed(0) : percent.toFixed(1)} %`;
}

/** A limit of the adapter: sizes in binary units, as the specification states them. */
export function formatLimit(name: string, value: number): string {
  if (!/Size$/.test(name)) return value.toLocaleString("en");
  for (const [unit, size] of binaryUnits) if (value >= size) return `${Number((value / size).toFixed(2))} ${unit}`;
  return `${value} B`;
}

const binaryUnits = [
  ["GiB", 2 ** 30],
  ["MiB", 2 ** 20],
  ["KiB", 2 ** 10],
] as const;

/** "maxStorageBufferBindingSize" as "storage buffer binding size". */
export function limitName(name: string): string {
  return name
    .replace(/^max/, "")
    .replaceAll(/(?<=[a-z])([A-Z])/g, " $1")
    .toLowerCase()
    .trim();
}

/** A message as a sentence begins; a name of a file or a field stays as it is. */
export function sentence(message: string): string {
  return /^[a-z]+[ ,]/.test(message) ? message[0]!.toUpperCase() + message.slice(1) : message;
}

/**
 * Several relocatable objects in one binary: a Unix `ar` archive, so that `objdump -d kernels.bin` and `ar t kernels.bin` show what is in it.
 */
const MAGIC = "!<arch>\n";
const HEADER = 60;

export interface Member {
  readonly name: string;
  readonly data: Uint8Array;
}

/** Names of more than 15 characters go to the archive's name table, as GNU ar does it. */
export function writeArchive(members: readonly Member[]): Uint8Array {
  const encoder = new TextEncoder();
  let names = "";
  const headers = members.map(({ name, data }) => {
    let field = `${name}/`;
    if (field.length > 16) {
      field = `/${names.length}`;
      names += `${name}/\n`;
    }
    return header(field, data.length);
  });
  const all: Member[] = names === "" ? [] : [{ name: header("//", names.length), data: encoder.encode(names) }];
  members.forEach(({ data }, i) => all.push({ name: headers[i]!, data }));

  const even = (n: number): number => n + (n & 1); // members start at even offsets
  const out = new Uint8Array(all.reduce((size, { data }) => size + HEADER + even(data.length), MAGIC.length)).fill(0x0a);
  out.set(encoder.encode(MAGIC));
  let at = MAGIC.length;
  for (const { name, data } of all) {
    out.set(encoder.encode(name), at);
    out.set(data, at + HEADER);
    at += HEADER + even(data.length);
  }
  return out;
}

/** No times, owners or modes: the same members give the same bytes. */
const header = (name: string, size: number): string =>
  `${name.padEnd(16)}${"0".padEnd(12)}${"0".padEnd(6)}${"0".padEnd(6)}${"644".padEnd(8)}${String(size).padEnd(10)}\`\n`;

/** The members of an archive that `writeArchive` (or ar) wrote. Throws on anything that is not a whole archive. */
export function readArchive(bytes: Uint8Array): Member[] {
  const decoder = new TextDecoder("latin1");
  const text = (at: number, length: number): string => decoder.decode(bytes.subarray(at, at + length)).trimEnd();
  if (decoder.decode(bytes.subarray(0, MAGIC.length)) !== MAGIC) throw new Error("the kernels are not an archive of objects");
  const members: Member[] = [];
  let names = "";
  for (let at = MAGIC.length; at < bytes.length;) {
    const field = text(at, 16);
    const size = Number(text(at + 48, 10));
    const end = at + HEADER + size;
    if (text(at + 58, 1) !== "`" || !Number.isInteger(size) || size < 0 || end > bytes.length)
      throw new Error(`the archive of kernels is damaged or cut short at byte ${at} of ${bytes.length}`);
    const data = bytes.subarray(at + HEADER, end);
    if (field === "//") names = decoder.decode(data);
    else if (field.startsWith("/")) {
      const start = Number(field.slice(1));
      members.push({ name: names.slice(start, names.indexOf("/\n", start)), data });
    } else members.push({ name: field.replace(/\/$/, ""), data });
    at = end + (end & 1);
  }
  return members;
}

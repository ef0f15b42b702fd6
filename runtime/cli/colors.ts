import picocolors from "picocolors";

const { env, stdout, stderr } = process;

/**
 * Colours for people and not for programs: what is piped into a file or another command has none, on a build server either. NO_COLOR and FORCE_COLOR
 * decide where they are set.
 */
const forced = (env["FORCE_COLOR"] ?? "") !== "";
const refused = (env["NO_COLOR"] ?? "") !== "" || env["TERM"] === "dumb";
/** `isTTY` is undefined, in spite of its type, where there is no terminal; and picocolors then decides by itself. */
const watched = [stdout, stderr].every(({ isTTY }) => (isTTY as boolean | undefined) === true);

export const colors = picocolors.createColors(forced || (watched && !refused));

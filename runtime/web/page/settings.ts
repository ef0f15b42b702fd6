import type { Settings as GenerationSettings } from "../protocol.ts";

/** What the controls say. They stay as the user left them, in the browser and in a link. */
export interface Settings {
  /** Draw tokens, or take the likeliest one each time. */
  readonly draw: boolean;
  readonly temperature: number;
  /** 0 is off. */
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly repetitionPenalty: number;
  readonly maxNewTokens: number;
  /** null: a new one for each text. */
  readonly seed: number | null;
}

/** A control with a number: its bounds, both included, and what it does. */
export interface Field {
  readonly label: string;
  readonly min: number;
  readonly max: number;
  /** Of the slider; 1 also says that only whole numbers make sense. */
  readonly step: number;
  /** Without an effect when the likeliest token is taken. */
  readonly draws: boolean;
  readonly help: string;
}

export type FieldName = Exclude<keyof Settings, "draw" | "seed">;

export const FIELDS: Readonly<Record<FieldName, Field>> = {
  temperature: { label: "Temperature", min: 0.05, max: 2, step: 0.05, draws: true, help: "Above 1 is more varied, below 1 less." },
  topK: { label: "Top k", min: 0, max: 200, step: 1, draws: true, help: "Draw from the k likeliest; 0 draws from all." },
  topP: {
    label: "Top p",
    min: 0.01,
    max: 1,
    step: 0.01,
    draws: true,
    help: "Draw from the likeliest whose probabilities reach p together.",
  },
  minP: {
    label: "Min p",
    min: 0,
    max: 1,
    step: 0.01,
    draws: true,
    help: "Leave out what is less than p times as likely as the likeliest.",
  },
  repetitionPenalty: {
    label: "Repetition penalty",
    min: 0.5,
    max: 2,
    step: 0.01,
    draws: false,
    help: "Above 1, tokens that were there before become less likely.",
  },
  maxNewTokens: { label: "Length", min: 1, max: 1024, step: 1, draws: false, help: "Tokens to write at most." },
};

export const fieldNames = Object.keys(FIELDS) as readonly FieldName[];

export const DEFAULTS: Settings = {
  draw: true,
  temperature: 0.8,
  topK: 50,
  topP: 0.95,
  minP: 0,
  repetitionPenalty: 1.1,
  maxNewTokens: 128,
  seed: null,
};

/** What is wrong with a number in a control, for the person who typed it; null when it is good. */
export function fault(name: FieldName, value: number): string | null {
  const { min, max, step } = FIELDS[name];
  if (!Number.isFinite(value)) return "Enter a number.";
  if (step === 1 && !Number.isInteger(value)) return "Enter a whole number.";
  return value < min || value > max ? `Enter a number from ${min} to ${max}.` : null;
}

/** The same for the seed; empty is good and means a new one for each text. */
export function seedFault(text: string): string | null {
  return text === "" || parseSeed(text) !== null ? null : "Enter a whole number from 0 to 2^53 - 1, or leave it empty.";
}

export function parseSeed(text: string): number | null {
  const seed = Number(text);
  return /^\d+$/.test(text) && Number.isSafeInteger(seed) ? seed : null;
}

/** As the generation loop takes them. Sampling settings are left out when nothing is drawn. */
export function generationSettings(settings: Settings): GenerationSettings {
  const { draw, temperature, topK, topP, minP, repetitionPenalty, maxNewTokens, seed } = settings;
  const sampling = draw ? { temperature, topK, topP, minP, ...(seed === null ? {} : { seed }) } : {};
  return { doSample: draw, repetitionPenalty, maxNewTokens, ...sampling };
}

/** What a page keeps: a prompt, and settings. */
export interface Kept {
  readonly prompt: string | null;
  readonly settings: Settings;
}

/** As a query string, for a link and for the browser's store: only what differs from the defaults. */
export function written({ prompt, settings }: Kept): string {
  const params = new URLSearchParams();
  if (prompt !== null) params.set("prompt", prompt);
  if (!settings.draw) params.set("draw", "no");
  for (const name of fieldNames) if (settings[name] !== DEFAULTS[name]) params.set(name, String(settings[name]));
  if (settings.seed !== null) params.set("seed", String(settings.seed));
  return params.toString();
}

/** The opposite. Links come from strangers: what is no good setting is as if it were not there. */
export function read(query: string): Kept {
  const params = new URLSearchParams(query);
  const numbers = Object.fromEntries(
    fieldNames.map((name): [FieldName, number] => {
      const text = params.get(name);
      const value = text === null || text.trim() === "" ? NaN : Number(text);
      return [name, fault(name, value) === null ? value : DEFAULTS[name]];
    }),
  ) as Record<FieldName, number>;
  return {
    prompt: params.get("prompt"),
    settings: { ...numbers, draw: params.get("draw") !== "no", seed: parseSeed(params.get("seed") ?? "") },
  };
}

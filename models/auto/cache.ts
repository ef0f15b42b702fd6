import { UserError } from "../../runtime/errors.ts";
import { bf16ToF32, f16ToF32 } from "../../runtime/numeric.ts";
import type { Session, Snapshot, StateValue } from "../../runtime/session.ts";
import { snapshotOfRows } from "../../runtime/states.ts";
import type { BambaConfig } from "../bamba/config.ts";

/** Numbers with a shape, row-major. */
export interface Values {
  readonly shape: readonly number[];
  readonly data: Float32Array;
}

/** The states of one layer in Transformers' layout (spec bamba d.1). */
export type LayerStates =
  | { readonly kind: "attention"; readonly keys: Values; readonly values: Values }
  | { readonly kind: "mamba"; readonly convStates: Values; readonly recurrentStates: Values };

/**
 * What a model remembers of a text: Transformers' `past_key_values`. `forward` gives one and takes it to go on from there; keys and values of the attention
 * layers and the states of the Mamba layers are in it. It lies on the device while the model works on it, and moves to the host when the model is used
 * for another text meanwhile.
 */
export class BambaCache {
  private readonly config: BambaConfig;
  /** Where the states are: in a session, or as a value. */
  private session: Session | null = null;
  private snapshot: Snapshot | null = null;

  constructor(config: BambaConfig) {
    this.config = config;
  }

  /** Positions that are in it, padding included; 0 before the first call. Also for a model without attention layers. */
  getSeqLength(): number {
    return this.session?.past ?? this.snapshot?.past ?? 0;
  }

  /** Rows, 0 before the first call. */
  get rows(): number {
    return this.session?.rows ?? this.snapshot?.rows ?? 0;
  }

  /** Row i becomes what row `source[i]` was, as beam search needs it. @throws UserError when there is no such row. */
  async reorder(source: ArrayLike<number>): Promise<void> {
    if (this.session !== null) await this.session.reorder(source);
    else if (this.snapshot !== null) this.snapshot = snapshotOfRows(this.snapshot, source);
  }

  /** A recurrent state has no way back to an earlier position. Take a snapshot of the session instead (Session.snapshot). */
  crop(): never {
    throw new UserError("a cache with recurrent states cannot be cropped", {
      hint: "keep a session's snapshot() at the position to go back to",
    });
  }

  /** A copy that later calls do not change. */
  async copy(): Promise<BambaCache> {
    const copy = new BambaCache(this.config);
    copy.snapshot = await this.value();
    return copy;
  }

  /** The states of every layer, [rows, ...] as in Transformers: keys and values up to the length, convolution states as [rows, channels, width]. */
  async layers(): Promise<readonly LayerStates[]> {
    const snapshot = await this.value();
    if (snapshot === null) return [];
    const state = (layer: number, name: string): Values => {
      const held = snapshot.states.get(`layers.${layer}.${name}`)!;
      return { shape: held.shape, data: floatsOf(held) };
    };
    return this.config.layerKinds.map((kind, layer) =>
      kind === "attention"
        ? { kind, keys: state(layer, "keys"), values: state(layer, "values") }
        : { kind, convStates: channelsFirst(state(layer, "conv")), recurrentStates: state(layer, "ssm") },
    );
  }

  private async value(): Promise<Snapshot | null> {
    return this.session === null ? this.snapshot : await this.session.snapshot();
  }

  /** Brings the states into a session that another cache may have used last. For the model. */
  async enter(session: Session, resident: BambaCache | null): Promise<void> {
    if (resident === this && this.session === session) return;
    await resident?.leave(session);
    const snapshot = await this.value();
    if (snapshot === null) await session.reset();
    else await session.restore(snapshot);
    this.session = session;
    this.snapshot = null;
  }

  /** Takes the states out of a session that is about to be used for something else, if they are still there. */
  private async leave(session: Session): Promise<void> {
    if (this.session !== session) return;
    this.snapshot = await session.snapshot();
    this.session = null;
  }
}

/** A state's numbers, whatever it is stored as. */
function floatsOf({ dtype, data }: StateValue): Float32Array {
  if (data instanceof Float32Array) return data;
  const floats = new Float32Array(data.length);
  const widen = dtype === "bf16" ? bf16ToF32 : f16ToF32;
  widen(data as Uint16Array, floats);
  return floats;
}

/** [rows, width, channels] as [rows, channels, width]. */
function channelsFirst({ shape, data }: Values): Values {
  const [rows, width, channels] = shape as readonly [number, number, number];
  const out = new Float32Array(data.length);
  for (let row = 0; row < rows; row += 1)
    for (let k = 0; k < width; k += 1)
      for (let c = 0; c < channels; c += 1) out[(row * channels + c) * width + k] = data[(row * width + k) * channels + c]!;
  return { shape: [rows, channels, width], data: out };
}

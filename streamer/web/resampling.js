// Sound at the rate of a sound card as sound at 16 kHz, for browsers that record at no other rate than the card's.

import { RATE } from "./rings.js";

const ZEROS = 16; // zero crossings of the sinc on each side; 16 keep aliases below -60 dB
const EDGE = 0.92; // where the passband ends, as a share of the lower of the two half rates

// A band-limited interpolation (Smith, "Digital Audio Resampling"): every output is a sum of inputs weighted by a sinc
// under a Blackman window. The weights depend on the place between two inputs alone; there are only as many places as
// the reduced rate has numerators, so they are computed once.
export class Resampler {
  constructor(from, to = RATE) {
    const divisor = (a, b) => (b ? divisor(b, a % b) : a);
    const common = divisor(from, to);
    this.up = to / common; // places between two inputs
    this.down = from / common; // places from one output to the next
    const cutoff = EDGE * Math.min(1, to / from);
    this.reach = Math.ceil(ZEROS / cutoff);
    this.kernels = new Map();
    this.cutoff = cutoff;
    this.rest = new Float32Array(2 * this.reach); // the inputs that the next output may still need
    this.place = this.reach * this.up; // of the next output, in 1/up of an input, relative to rest[reach]
  }

  #kernel(phase) {
    let kernel = this.kernels.get(phase);
    if (!kernel) {
      const { reach, cutoff } = this;
      kernel = new Float32Array(2 * reach);
      let sum = 0;
      for (let n = 0; n < 2 * reach; n += 1) {
        const x = n - reach + 1 - phase / this.up;
        const w = 0.42 + 0.5 * Math.cos((Math.PI * x) / reach) + 0.08 * Math.cos((2 * Math.PI * x) / reach);
        const angle = Math.PI * x * cutoff;
        kernel[n] = Math.abs(x) >= reach ? 0 : w * (angle === 0 ? 1 : Math.sin(angle) / angle);
        sum += kernel[n];
      }
      for (let n = 0; n < 2 * reach; n += 1) kernel[n] /= sum;
      this.kernels.set(phase, kernel);
    }
    return kernel;
  }

  // Gives the outputs that these inputs complete; they come `reach` inputs late.
  push(block) {
    if (this.up === this.down) return block;
    const { reach, up } = this;
    const inputs = new Float32Array(this.rest.length + block.length);
    inputs.set(this.rest);
    inputs.set(block, this.rest.length);
    const outputs = [];
    let at = Math.floor(this.place / up);
    while (at + 2 * reach < inputs.length) {
      const kernel = this.#kernel(this.place % up);
      let sum = 0;
      for (let n = 0; n < 2 * reach; n += 1) sum += kernel[n] * inputs[at + 1 + n];
      outputs.push(sum);
      this.place += this.down;
      at = Math.floor(this.place / up);
    }
    const used = Math.min(at, inputs.length);
    this.rest = inputs.slice(used);
    this.place -= used * up;
    return Float32Array.from(outputs);
  }
}

// Floats of full scale 1 as 16 bits.
export function toInt16(block) {
  const out = new Int16Array(block.length);
  for (let n = 0; n < block.length; n += 1) {
    out[n] = Math.max(-32768, Math.min(32767, Math.round(block[n] * 32768)));
  }
  return out;
}

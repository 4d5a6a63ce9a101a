// Pictures of sound, made piece by piece as it arrives: peaks for the waveform, columns for the spectrogram.

import { RATE, RowRing } from "./rings.js";

export const HOP = 160; // samples from one column to the next: 10 ms
export const BANDS = 56; // rows of the spectrogram, on the mel scale
const SIZE = 512; // samples of a Fourier transform: 32 ms
const LOWEST_HZ = 60;
const HIGHEST_HZ = 7600;
const QUIET_DB = -85;
const LOUD_DB = -15;

const mel = (hz) => 2595 * Math.log10(1 + hz / 700); // O'Shaughnessy's formula
const hz = (m) => 700 * (10 ** (m / 2595) - 1);

// First and last bin of the Fourier transform that each band is the largest of.
const bandBins = (() => {
  const edges = [];
  const [low, high] = [mel(LOWEST_HZ), mel(HIGHEST_HZ)];
  for (let band = 0; band <= BANDS; band += 1) edges.push((hz(low + ((high - low) * band) / BANDS) * SIZE) / RATE);
  return edges.slice(0, -1).map((edge, b) => [Math.floor(edge), Math.max(Math.floor(edge), Math.ceil(edges[b + 1]) - 1)]);
})();

const hann = Float32Array.from({ length: SIZE }, (_, n) => 0.5 - 0.5 * Math.cos((2 * Math.PI * n) / SIZE));
const cosines = Float32Array.from({ length: SIZE / 2 }, (_, k) => Math.cos((2 * Math.PI * k) / SIZE));
const sines = Float32Array.from({ length: SIZE / 2 }, (_, k) => -Math.sin((2 * Math.PI * k) / SIZE));
const reversed = Uint16Array.from({ length: SIZE }, (_, n) => {
  let r = 0;
  for (let bit = 1, m = n; bit < SIZE; bit <<= 1, m >>= 1) r = (r << 1) | (m & 1);
  return r;
});
const real = new Float32Array(SIZE);
const imaginary = new Float32Array(SIZE);

// Radix-2 Fourier transform of `real` and `imaginary`, in place, their order reversed by bits already.
function transform() {
  for (let half = 1; half < SIZE; half *= 2) {
    const step = SIZE / (2 * half);
    for (let start = 0; start < SIZE; start += 2 * half) {
      for (let k = 0; k < half; k += 1) {
        const a = start + k;
        const b = a + half;
        const c = cosines[k * step];
        const s = sines[k * step];
        const re = real[b] * c - imaginary[b] * s;
        const im = real[b] * s + imaginary[b] * c;
        real[b] = real[a] - re;
        imaginary[b] = imaginary[a] - im;
        real[a] += re;
        imaginary[a] += im;
      }
    }
  }
}

export class Spectrum {
  // seconds: how much of the past can still be drawn.
  constructor(seconds) {
    const rows = Math.ceil((seconds * RATE) / HOP);
    this.peaks = new RowRing(rows, 2, Int16Array); // lowest and highest sample of each hop
    this.columns = new RowRing(rows, BANDS, Uint8Array); // loudness from QUIET_DB (0) to LOUD_DB (255), low bands first
    this.window = new Float32Array(SIZE); // the newest samples
    this.filled = 0; // samples of the hop that is not complete
    this.hop = new Int16Array(HOP);
  }

  // block: Int16Array of any length.
  push(block) {
    for (let at = 0; at < block.length; ) {
      const count = Math.min(HOP - this.filled, block.length - at);
      this.hop.set(block.subarray(at, at + count), this.filled);
      this.filled += count;
      at += count;
      if (this.filled === HOP) {
        this.filled = 0;
        this.#column();
      }
    }
  }

  #column() {
    let [low, high] = [32767, -32768];
    this.window.copyWithin(0, HOP);
    for (let n = 0; n < HOP; n += 1) {
      const value = this.hop[n];
      if (value < low) low = value;
      if (value > high) high = value;
      this.window[SIZE - HOP + n] = value / 32768;
    }
    const peak = this.peaks.next();
    this.peaks.values[peak] = low;
    this.peaks.values[peak + 1] = high;
    for (let n = 0; n < SIZE; n += 1) real[reversed[n]] = this.window[n] * hann[n];
    imaginary.fill(0);
    transform();
    const column = this.columns.next();
    for (let band = 0; band < BANDS; band += 1) {
      let power = 0;
      const [first, last] = bandBins[band];
      for (let k = first; k <= last; k += 1) power = Math.max(power, real[k] * real[k] + imaginary[k] * imaginary[k]);
      // a full-scale sine has the amplitude SIZE / 4 under this window
      const db = 10 * Math.log10(power / (SIZE / 4) ** 2 + 1e-12);
      this.columns.values[column + band] = Math.round(255 * Math.min(1, Math.max(0, (db - QUIET_DB) / (LOUD_DB - QUIET_DB))));
    }
  }
}

// Root mean square of a block in dB of full scale, for level meters.
export function levelDb(block) {
  let sum = 0;
  for (let n = 0; n < block.length; n += 1) sum += block[n] * block[n];
  return block.length && sum ? 10 * Math.log10(sum / block.length / 32768 ** 2) : -120;
}

// Waveform and spectrogram as a picture that is painted once: every 10 ms of sound become one column of a bitmap that
// is used in a ring. What is drawn is copied from it.

import { RATE } from "./rings.js";
import { BANDS, HOP } from "./spectrum.js";
import { heat, theme } from "./theme.js";

const WAVE = 64; // rows of the waveform in the bitmap
const PER_SECOND = RATE / HOP;
const KEPT = 16;

export class SoundPicture {
  // spectrum: of the lane. seconds: width of the view.
  constructor(spectrum, seconds) {
    this.spectrum = spectrum;
    this.resize(seconds);
  }

  resize(seconds) {
    this.width = Math.ceil(seconds * PER_SECOND) + 8;
    this.bitmap = document.createElement("canvas");
    this.bitmap.width = this.width;
    this.bitmap.height = WAVE + BANDS;
    // read back by nobody, painted to by single columns: the processor does that faster than a graphics card
    this.pen = this.bitmap.getContext("2d", { willReadFrequently: true });
    this.repaint();
  }

  // Everything anew, as after a change of colours.
  repaint() {
    this.heat = heat();
    this.ink = theme().wave;
    this.painted = Math.max(this.spectrum.columns.oldest, this.spectrum.columns.total - this.width);
    this.pen.clearRect(0, 0, this.width, WAVE + BANDS);
  }

  // Paints the columns that are new.
  #paint() {
    const { columns, peaks } = this.spectrum;
    this.painted = Math.max(this.painted, columns.total - this.width);
    while (this.painted < columns.total) {
      const x = this.painted % this.width;
      const count = Math.min(this.width - x, columns.total - this.painted);
      const image = this.#image(count);
      this.pen.clearRect(x, 0, count, WAVE);
      this.pen.fillStyle = this.ink;
      for (let n = 0; n < count; n += 1) {
        this.#wave(peaks, this.painted + n, x + n);
        this.#heat(columns, this.painted + n, image, n, count);
      }
      this.pen.putImageData(image, x, WAVE);
      this.painted += count;
    }
  }

  // Pixels for so many columns; those for a few are kept, since a few is what sound brings at a time.
  #image(count) {
    if (count > KEPT) return this.pen.createImageData(count, BANDS);
    this.images ??= [];
    this.images[count] ??= this.pen.createImageData(count, BANDS);
    return this.images[count];
  }

  #wave(peaks, row, x) {
    const at = peaks.at(row);
    // the square root shows quiet speech; a line would show only the loudest
    const scaled = (v) => (Math.sign(v) * Math.sqrt(Math.abs(v) / 32768) * WAVE) / 2;
    const top = WAVE / 2 - scaled(peaks.values[at + 1]);
    const bottom = WAVE / 2 - scaled(peaks.values[at]);
    this.pen.fillRect(x, Math.min(top, WAVE / 2 - 0.5), 1, Math.max(1, bottom - top));
  }

  #heat(columns, row, image, n, count) {
    const at = columns.at(row);
    for (let band = 0; band < BANDS; band += 1) {
      const value = columns.values[at + band];
      const pixel = 4 * ((BANDS - 1 - band) * count + n);
      image.data[pixel] = this.heat[3 * value];
      image.data[pixel + 1] = this.heat[3 * value + 1];
      image.data[pixel + 2] = this.heat[3 * value + 2];
      image.data[pixel + 3] = 255;
    }
  }

  // Draws the sound from sample `from` to sample `to`. scale: pixels of a sample. wave and spectrogram: {top, height}.
  draw(pen, from, to, scale, wave, spectrogram) {
    this.#paint();
    const wide = HOP * scale;
    // two more on each side, so that smoothing ends outside of what is painted
    const low = Math.max(Math.floor(from / HOP) - 2, this.spectrum.columns.total - this.width, 0);
    const high = Math.min(Math.ceil(to / HOP) + 2, this.painted);
    for (let column = low; column < high; ) {
      const x = column % this.width;
      const count = Math.min(this.width - x, high - column);
      pen.drawImage(this.bitmap, x, 0, count, WAVE, column * wide, wave.top, count * wide, wave.height);
      pen.drawImage(this.bitmap, x, WAVE, count, BANDS, column * wide, spectrogram.top, count * wide, spectrogram.height);
      column += count;
    }
  }
}

export { WAVE };

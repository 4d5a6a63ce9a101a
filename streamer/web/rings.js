// Rings: buffers of a fixed size that forget their oldest content, so that a page that is open for days stays as small
// as after its first minutes. Everything is counted from the beginning of the lane and never wraps: `total` is one past
// the newest index, `oldest` the oldest one that is still there.

export const RATE = 16000; // samples a second, as inside the server

// Samples as they are sent: 16 bits, so that minutes of sound stay small.
export class SoundRing {
  constructor(seconds) {
    this.samples = new Int16Array(Math.round(seconds * RATE));
    this.total = 0;
  }

  get oldest() {
    return Math.max(0, this.total - this.samples.length);
  }

  // Takes an Int16Array that is not longer than the ring.
  push(block) {
    const size = this.samples.length;
    const at = this.total % size;
    const first = Math.min(block.length, size - at);
    this.samples.set(block.subarray(0, first), at);
    this.samples.set(block.subarray(first), 0);
    this.total += block.length;
  }

  // A copy of the samples from `start` up to `end`; shorter where some are forgotten or not there yet.
  read(start, end) {
    const from = Math.max(start, this.oldest);
    const to = Math.max(from, Math.min(end, this.total));
    const copy = new Int16Array(to - from);
    const size = this.samples.length;
    const at = from % size;
    const first = Math.min(copy.length, size - at);
    copy.set(this.samples.subarray(at, at + first));
    copy.set(this.samples.subarray(0, copy.length - first), first);
    return copy;
  }
}

// Rows of `width` small numbers each: peaks of the waveform, columns of the spectrogram, probabilities.
export class RowRing {
  constructor(rows, width, type = Float32Array) {
    this.rows = rows;
    this.width = width;
    this.values = new type(rows * width);
    this.total = 0;
  }

  get oldest() {
    return Math.max(0, this.total - this.rows);
  }

  // The place of a row in `values`.
  at(row) {
    return (row % this.rows) * this.width;
  }

  has(row) {
    return row >= this.oldest && row < this.total;
  }

  // Appends a row and gives its place in `values`, to be filled by the caller without an allocation.
  next() {
    this.total += 1;
    return this.at(this.total - 1);
  }

  // Goes on at a later row; those in between are `value`.
  skipTo(row, value) {
    const from = Math.max(this.total, row - this.rows);
    for (let r = from; r < row; r += 1) this.values.fill(value, this.at(r), this.at(r) + this.width);
    this.total = Math.max(this.total, row);
  }
}

// The newest of a series of numbers, for percentiles.
export class Recent {
  constructor(count) {
    this.ring = new RowRing(count, 1);
  }

  add(value) {
    this.ring.values[this.ring.next()] = value;
  }

  get count() {
    return this.ring.total - this.ring.oldest;
  }

  // The value below which this share of the series lies; null where there is none.
  percentile(share) {
    if (!this.count) return null;
    const sorted = this.ring.values.slice(0, this.count).sort();
    return sorted[Math.min(this.count - 1, Math.floor(share * this.count))];
  }
}

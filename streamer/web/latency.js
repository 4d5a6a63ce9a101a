// How late text is, and why: waiting for the chunk, computing, the network.
//
// A word is certain when its chunk has been read. Its lateness has three parts:
//   waiting    from the end of the word until the last sample of the chunk (and its right context) had been recorded;
//   computing  what the server took from then on, with its queue;
//   network    a round trip, measured with a small request beside the stream.

import { RATE, Recent, RowRing } from "./rings.js";

const BLOCKS = 4096; // whose time of arrival is remembered: more than a minute

// When each sample of a lane was recorded.
export class Arrivals {
  constructor() {
    this.ring = new RowRing(BLOCKS, 2, Float64Array); // total samples after a block, and when it came, in ms
  }

  add(total, now) {
    const at = this.ring.next();
    this.ring.values[at] = total;
    this.ring.values[at + 1] = now;
  }

  // Time at which a sample was there; null where that is forgotten or still to come.
  of(sample) {
    const { ring } = this;
    let [low, high] = [ring.oldest, ring.total];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (ring.values[ring.at(middle)] < sample) low = middle + 1;
      else high = middle;
    }
    if (low >= ring.total || (low === ring.oldest && low > 0)) return null;
    const at = ring.at(low);
    return ring.values[at + 1] - ((ring.values[at] - sample) / RATE) * 1000;
  }
}

// One for the page; all lanes add to it.
export class Latency {
  constructor(count = 500) {
    this.total = new Recent(count);
    this.waiting = new Recent(count);
    this.computing = new Recent(count);
    this.network = new Recent(count);
    this.trips = new Recent(60);
  }

  // ms: of a small request and its answer.
  trip(ms) {
    this.trips.add(ms);
  }

  // Takes note of an event of a lane as it arrives.
  //   lane: {arrivals, timeline, sound, chunk, known} where known counts the certain words of the segment.
  take(lane, event, now) {
    if (event.type !== "partial" && event.type !== "final") return;
    const certain = event.type === "final" ? event.words.length : event.stable ? event.stable.split(" ").length : 0;
    const step = lane.arrivals.of(this.#lastChunk(lane));
    const computed = step === null ? 0 : Math.max(0, now - step);
    for (const word of event.words.slice(Math.min(lane.known ?? 0, certain), certain)) {
      const spoken = lane.arrivals.of(lane.timeline.samples(word.end_s));
      if (spoken !== null) {
        const total = Math.max(0, now - spoken);
        const rest = Math.min(total, computed);
        // the fastest trips: slower ones waited for a busy server, as the stream's messages did
        const network = Math.min(rest, this.trips.percentile(0.1) ?? 0);
        this.total.add(total);
        this.waiting.add(total - rest);
        this.computing.add(rest - network);
        this.network.add(network);
      }
    }
    lane.known = event.type === "final" ? 0 : certain;
  }

  // The last sample that the newest step of the encoder needed, if the server is in time.
  #lastChunk(lane) {
    const { origin } = lane.timeline;
    const { size, ahead } = lane.chunk;
    return origin + Math.floor((lane.sound.total - origin - ahead) / size) * size + ahead;
  }

  // {p50, p95, waiting, computing, network} in ms, or null before the first word.
  summary() {
    if (!this.total.count) return null;
    const half = (series) => series.percentile(0.5) ?? 0;
    return {
      p50: half(this.total),
      p95: this.total.percentile(0.95),
      waiting: half(this.waiting),
      computing: half(this.computing),
      network: half(this.network),
      words: this.total.count,
    };
  }
}

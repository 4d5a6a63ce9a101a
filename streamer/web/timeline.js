// What was understood of a lane's sound, ordered by time. All times are samples since the lane began.
//
// A stream may end and another one begin in the same lane (other settings, or a server that does not know it): then the
// clock starts anew, and `origin` says where on the lane's clock that is.

import { RATE, RowRing } from "./rings.js";
import { speakersOf } from "./turns.js";

const DRAWN_S = 60; // what can still be drawn
const SAME_TURN = RATE; // pauses within what one speaker says are drawn over
const LONGEST_TURN = 6 * RATE; // then the name stands there again
const MOST_SPANS = 400; // of speech, that are kept for drawing
const SEEN = 0.02; // a change of confidence that can be seen
const MOST_FINALS = 200; // drawn ones and a few more; the transcript keeps its own

export class Timeline {
  constructor() {
    this.origin = 0;
    this.speech = []; // {start, end}; an open one has the end null
    this.finals = []; // {id, text, start, end, reason, words, speakers}
    this.speakers = []; // {speaker, start, end, confidence}
    this.partial = null; // {stable, unstable, words}
    this.listeners = new Set();
    this.#watch(320);
    this.heard = 0; // the server's voice detector is here
    this.forgotten = 0; // finals that were too many
    this.count = 0;
  }

  // Calls back with the first sample of what has changed; gives what ends that.
  onChange(listener) {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  #changed(sample) {
    for (const listener of this.listeners) listener(sample);
  }

  // hop: samples from one probability of speech to the next.
  #watch(hop) {
    this.hop = hop;
    this.probabilities = new RowRing(Math.ceil((DRAWN_S * RATE) / hop), 1);
  }

  // A stream begins at this sample of the lane.
  begin(sample) {
    this.stop();
    this.origin = sample;
  }

  // The stream is over: nothing stays open.
  stop() {
    this.#drop();
    const last = this.speech.at(-1);
    if (last && last.end === null) {
      last.end = Math.max(last.start, this.heard);
      this.#changed(last.start);
    }
  }

  #drop() {
    if (this.partial?.words.length) this.#changed(this.partial.words[0].start);
    this.partial = null;
  }

  samples(seconds) {
    return this.origin + Math.round(seconds * RATE);
  }

  // Takes an event of the stream; gives the final if it was one.
  take(event) {
    switch (event.type) {
      case "activity":
        this.#activity(event);
        break;
      case "speech_started":
        this.speech.push({ start: this.samples(event.at_s), end: null });
        if (this.speech.length > MOST_SPANS) this.speech.shift();
        this.#changed(this.speech.at(-1).start);
        break;
      case "speech_stopped":
        if (this.speech.at(-1)?.end === null) this.speech.at(-1).end = this.samples(event.at_s);
        this.#changed(this.samples(event.at_s));
        break;
      case "partial": {
        // the last words, those of the unstable text, may still change
        const certain = event.words.length - (event.unstable ? event.unstable.split(" ").length : 0);
        this.partial = { stable: event.stable, unstable: event.unstable, words: this.#words(event.words, certain) };
        break;
      }
      case "speaker":
        this.#speaker(event);
        break;
      case "final":
        return this.#final(event);
      default:
    }
    return null;
  }

  #activity(event) {
    const hop = Math.round(event.hop_s * RATE); // depends on the detector
    if (hop !== this.hop) this.#watch(hop);
    const first = Math.round(this.samples(event.start_s) / hop);
    if (first < this.probabilities.total) return; // heard again after a reconnection
    this.probabilities.skipTo(first, -1); // -1: nothing is known
    for (const p of event.probabilities) this.probabilities.values[this.probabilities.next()] = p;
    this.heard = this.samples(event.start_s) + event.probabilities.length * hop;
    this.#changed(first * hop);
  }

  // Words that are as they were before stay the same objects, so that a view finds again what it noted on them.
  #words(words, certain) {
    const before = this.partial?.words ?? [];
    let changed = Infinity;
    const now = words.map((word, n) => {
      const [start, end, stable] = [this.samples(word.start_s), this.samples(word.end_s), n < certain];
      const old = before[n];
      const same = old?.text === word.text && old.start === start;
      if (!same || old.end !== end || old.stable !== stable || Math.abs(old.confidence - word.confidence) > SEEN) {
        changed = Math.min(changed, start, old?.start ?? Infinity);
      }
      const kept = same ? old : { text: word.text, start };
      return Object.assign(kept, { end, confidence: word.confidence, stable, speaker: word.speaker || null });
    });
    if (before.length > now.length) changed = Math.min(changed, before[now.length].start);
    if (changed < Infinity) this.#changed(changed);
    return now;
  }

  #speaker(event) {
    const span = {
      speaker: event.speaker,
      start: this.samples(event.start_s),
      end: this.samples(event.end_s),
      confidence: event.confidence,
    };
    const last = this.speakers.at(-1);
    const same = last?.speaker === span.speaker && span.start - last.end < SAME_TURN && span.end - last.start < LONGEST_TURN;
    if (same) last.end = span.end;
    else this.speakers.push(span);
    if (this.speakers.length > MOST_SPANS) this.speakers.shift();
    this.#changed(this.speakers.at(-1).start);
  }

  #final(event) {
    const [start, end] = [this.samples(event.start_s), this.samples(event.end_s)];
    this.count += 1;
    const words = this.#words(event.words, Infinity);
    const final = { id: this.count, text: event.text, start, end, reason: event.reason, speakers: speakersOf(words), words };
    this.finals.push(final);
    if (this.finals.length > MOST_FINALS) {
      this.finals.shift();
      this.forgotten += 1;
    }
    this.partial = null;
    this.#changed(end);
    return final;
  }

  // All words between two samples, the ones that may change too.
  *wordsWithin(from, to) {
    for (let n = this.finals.length - 1; n >= 0 && this.finals[n].end >= from; n -= 1) {
      for (const word of this.finals[n].words) if (word.end >= from && word.start <= to) yield word;
    }
    for (const word of this.partial?.words ?? []) if (word.end >= from && word.start <= to) yield word;
  }
}

// A lane: one source of sound, one stream on the server, and what came of it. It knows nothing of the page.

import { StreamConnection } from "./connection.js";
import { Arrivals } from "./latency.js";
import { RATE, SoundRing } from "./rings.js";
import { Spectrum, levelDb } from "./spectrum.js";
import { describe } from "./states.js";
import { Timeline } from "./timeline.js";

const HEARD_AGAIN_S = 180; // sound that is kept to hear words again
const DRAWN_S = 60;
const FRAME = 320; // samples of a frame of the encoder
const LAST_FRAME = 80; // further samples that its last frame looks at
const AGAIN_S = 3; // from one try to begin to the next
const FALL_DB_S = 40; // how fast the level falls after a loud block; it rises at once

export const address = (path = "/v1/stream", base = location.href) => {
  const url = new URL(path, base);
  url.protocol = url.protocol.replace("http", "ws");
  return url.href;
};

export class Lane extends EventTarget {
  // source: of sources.js. url, key: of the server. settings: as on the wire, see settings.js. model: by name, or "".
  // Events: "state", "final" (detail: the final), "partial", "problem" (detail: a sentence).
  constructor({ source, url = address(), key = "", settings = {}, model = "", latency = null }) {
    super();
    Object.assign(this, { source, url, key, settings, model, latency });
    this.sound = new SoundRing(HEARD_AGAIN_S);
    this.spectrum = new Spectrum(DRAWN_S);
    this.timeline = new Timeline();
    this.arrivals = new Arrivals();
    this.level = -120;
    this.ready = null;
    this.chunk = null; // {size, ahead} in samples: the encoder's steps, and the right context that they wait for
    this.#say("idle");
  }

  get name() {
    return this.source.name;
  }

  get threshold() {
    return this.settings.speech?.start_probability ?? 0.5;
  }

  // Text of the sound before this sample is certain: the chunks that the server has heard to their end.
  get read() {
    const { origin, heard } = this.timeline;
    if (!this.chunk) return heard;
    return origin + Math.max(0, Math.floor((heard - origin - this.chunk.ahead) / this.chunk.size)) * this.chunk.size;
  }

  get seconds() {
    return this.sound.total / RATE;
  }

  // Sound that was lost on the way: by the sound card, or because the server was too slow for too long.
  get dropped() {
    return this.source.dropped + (this.connection ? Math.round(this.connection.lost / 320) : 0);
  }

  get running() {
    return ["asking", "loading", "connecting", "live", "playing", "broken", "unreachable", "full"].includes(this.stateName);
  }

  #say(name, details = {}) {
    this.stateName = name;
    this.state = describe(name, details);
    this.dispatchEvent(new Event("state"));
  }

  async start() {
    clearTimeout(this.again);
    this.#say(this.source.file ? "loading" : "asking");
    try {
      await this.source.start((block, error) => this.#sound(block, error));
    } catch (error) {
      this.source.stop();
      this.#silent(error);
      return;
    }
    this.#connect();
  }

  // There is no sound. A browser's own errors have numbers for codes.
  #silent(error) {
    const code = typeof error.code === "string" ? error.code : "no_microphone";
    this.#say(code, { problem: { message: error.message }, wait: AGAIN_S });
    if (code === "unreachable") this.again = setTimeout(() => this.start(), AGAIN_S * 1000);
  }

  #connect() {
    const first = this.sound.total; // sample of the lane at which the connection's sound begins
    let origin = first;
    const connection = new StreamConnection({
      url: this.url,
      key: this.key,
      settings: this.settings,
      model: this.model,
      onEvent: (event) => {
        this.timeline.origin = origin;
        this.#event(event);
      },
      onState: (name, details) => {
        if (connection === this.connection) this.#connected(name, details); // one that only ends says nothing any more
      },
      onBegin: (samples) => {
        origin = first + samples;
        this.timeline.begin(origin);
      },
    });
    this.connection = connection;
    connection.open();
  }

  #connected(name, details) {
    if (details.ready) {
      this.ready = details.ready;
      const [, chunk, right] = details.ready.context.split(",").map(Number);
      this.chunk = { size: chunk * FRAME, ahead: right * FRAME + LAST_FRAME };
    }
    if (name === "refused") this.source.stop();
    if (name === "ended") {
      this.timeline.stop();
      this.source.stop();
    }
    if (name === "live" && this.source.file) this.#say(this.finishing ? "finishing" : "playing", details);
    else this.#say(name, details);
  }

  #sound(block, error) {
    if (block === null) {
      this.finishing = true;
      if (!error) this.#say("finishing");
      this.connection?.end();
      if (error) this.#say(error.code);
      return;
    }
    if (!block.length) return;
    this.sound.push(block);
    this.spectrum.push(block);
    this.arrivals.add(this.sound.total, performance.now());
    this.level = Math.max(levelDb(block), this.level - (FALL_DB_S * block.length) / RATE);
    this.connection?.send(block);
  }

  #event(event) {
    if (event.type === "problem") {
      this.dispatchEvent(new CustomEvent("problem", { detail: event.message }));
      return;
    }
    this.latency?.take(this, event, performance.now());
    const final = this.timeline.take(event);
    if (final) this.dispatchEvent(new CustomEvent("final", { detail: final }));
    if (event.type === "partial" || final) this.dispatchEvent(new Event("partial"));
  }

  // Listens with other settings from the next sound on. The model, what the encoder sees, how wide a beam is and whether speakers
  // are told apart cannot change within a stream: then the stream gives its last words and another one goes on.
  change(settings, model = this.model) {
    const fixed = ({ context, decoding, speakers }) => JSON.stringify([context, decoding?.method, decoding?.beam_width, speakers]);
    const another = model !== this.model || fixed(settings) !== fixed(this.settings);
    this.settings = settings;
    this.model = model;
    if (!this.connection || !(this.running || this.stateName === "paused")) return;
    if (!another) {
      this.connection.change(settings);
      return;
    }
    const before = this.connection;
    this.#connect();
    before.end();
  }

  // Another microphone goes on with the same stream.
  async useSource(source) {
    this.source.stop();
    this.source = source;
    try {
      await source.start((block, error) => this.#sound(block, error));
      this.#say(this.connection?.accepted ? "live" : "connecting");
    } catch (error) {
      this.#silent(error);
    }
  }

  pause() {
    this.source.pause();
    this.connection?.flush();
    this.#say("paused");
  }

  resume() {
    this.source.resume();
    this.#say(this.source.file ? "playing" : "live");
  }

  // No more sound; what was heard is decoded to the last word.
  stop() {
    clearTimeout(this.again);
    this.source.stop();
    this.finishing = true;
    this.#say("finishing");
    if (this.connection) this.connection.end();
    else this.#say("ended");
  }

  // At once, without the last words.
  close() {
    clearTimeout(this.again);
    this.source.stop();
    this.connection?.close();
  }

  retry() {
    if (this.connection) this.connection.retry();
    else this.start();
  }
}

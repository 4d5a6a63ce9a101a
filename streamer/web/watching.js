// The operator's view: every session of the server as a lane, over /v1/watch, which asks for a key that may watch.
//
// The feed carries pictures of what sessions heard (peaks of the waveform, columns of the spectrogram) and their events;
// sound itself is not passed on.

import { BANDS, HOP, Spectrum } from "./spectrum.js";
import { RATE } from "./rings.js";
import { describe } from "./states.js";
import { Timeline } from "./timeline.js";

const DRAWN_S = 60;
const BEHIND = 2400; // samples by which the picture is late: messages come every 100 ms

// A session of somebody else, as far as it can be seen.
export class WatchedLane extends EventTarget {
  constructor(session) {
    super();
    this.watched = true;
    this.id = session.id;
    this.name = `Session ${session.id}${session.protocol ? ` · ${session.protocol}` : ""}`;
    this.spectrum = new Spectrum(DRAWN_S);
    this.timeline = new Timeline();
    this.sound = { total: 0, oldest: 0 };
    this.behind = BEHIND;
    this.level = -120;
    this.dropped = 0;
    this.threshold = session.threshold ?? 0.5;
    this.say("watching");
  }

  get read() {
    return this.timeline.heard;
  }

  get seconds() {
    return this.sound.total / RATE;
  }

  say(name) {
    this.stateName = name;
    this.state = describe(name);
    this.dispatchEvent(new Event("state"));
  }

  // peaks: lowest and highest sample of each 10 ms from `first` on, from -1 to 1, one after the other.
  // bands: columns of the spectrogram of the same 10 ms, as bytes in base64.
  heard(first, peaks, bands) {
    const { peaks: ring, columns } = this.spectrum;
    const row = Math.floor(first / HOP);
    ring.skipTo(row, 0);
    columns.skipTo(row, 0);
    const loudness = atob(bands);
    let loudest = 0;
    for (let n = 0; n < peaks.length / 2; n += 1) {
      const at = ring.next();
      ring.values[at] = Math.round(peaks[2 * n] * 32767);
      ring.values[at + 1] = Math.round(peaks[2 * n + 1] * 32767);
      const column = columns.next();
      for (let band = 0; band < BANDS; band += 1) columns.values[column + band] = loudness.charCodeAt(BANDS * n + band);
      loudest = Math.max(loudest, -peaks[2 * n], peaks[2 * n + 1]);
    }
    this.level = Math.max(loudest > 0 ? 20 * Math.log10(loudest) : -120, this.level - 4);
    this.sound.total = ring.total * HOP;
  }

  take(event) {
    const final = this.timeline.take(event);
    if (final) this.dispatchEvent(new CustomEvent("final", { detail: final }));
    if (final || event.type === "partial") this.dispatchEvent(new Event("partial"));
  }

  close() {}
}

export class Watch {
  // url: of /v1/watch. key: of an operator. onLane(lane), onEnd(lane), onState(sentence).
  constructor({ url, key, onLane, onEnd, onState }) {
    Object.assign(this, { url, key, onLane, onEnd, onState });
    this.lanes = new Map();
    this.open();
  }

  open() {
    this.onState("Connecting");
    this.socket = new WebSocket(this.url);
    this.socket.onopen = () => this.socket.send(JSON.stringify({ type: "watch", key: this.key }));
    this.socket.onmessage = (message) => this.#received(JSON.parse(message.data));
    this.socket.onclose = (event) => this.#closed(event);
  }

  #received(message) {
    if (message.type === "watching") {
      this.onState("Watching: sessions appear as they begin.");
    } else if (message.type === "problem") {
      this.problem = message.message;
    } else if (message.type === "session") {
      this.#lane(message);
    } else if (message.type === "session_ended") {
      const lane = this.lanes.get(message.id);
      this.lanes.delete(message.id);
      lane?.timeline.stop();
      lane?.say("ended");
      if (lane) this.onEnd(lane);
    } else if (message.type === "sound") {
      this.lanes.get(message.id)?.heard(message.start_samples, message.peaks, message.bands);
    } else if (message.type === "event") {
      this.lanes.get(message.id)?.take(message.event);
    }
  }

  #lane(session) {
    if (this.lanes.has(session.id)) return;
    const lane = new WatchedLane(session);
    this.lanes.set(session.id, lane);
    this.onLane(lane);
  }

  #closed(event) {
    for (const lane of this.lanes.values()) lane.say("ended");
    this.lanes.clear();
    const why = this.problem ?? (event.code === 1006 ? "the server does not answer, or has no view for operators" : event.reason);
    this.onState(`Not watching: ${why || "the connection was closed"}. Enter the operator's key, then try again.`);
    this.socket = null;
  }

  close() {
    if (this.socket) this.socket.onclose = null;
    this.socket?.close();
    for (const lane of this.lanes.values()) this.onEnd(lane);
    this.lanes.clear();
  }
}

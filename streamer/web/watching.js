// The operator's view: every session of the server as a lane, over /v1/watch, which asks for a key that may watch.
//
// The feed carries what sessions heard as peaks of the waveform and as events; sound itself is not passed on.

import { HOP, Spectrum } from "./spectrum.js";
import { RATE } from "./rings.js";
import { describe } from "./states.js";
import { Timeline } from "./timeline.js";

const DRAWN_S = 60;

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
  peaks(first, peaks) {
    const { peaks: ring, columns } = this.spectrum;
    const row = Math.floor(first / HOP);
    ring.skipTo(row, 0);
    columns.skipTo(row, 0);
    let loudest = 0;
    for (let n = 0; n + 1 < peaks.length; n += 2) {
      const at = ring.next();
      ring.values[at] = Math.round(peaks[n] * 32767);
      ring.values[at + 1] = Math.round(peaks[n + 1] * 32767);
      columns.values.fill(0, columns.next(), columns.at(columns.total - 1) + columns.width);
      loudest = Math.max(loudest, -peaks[n], peaks[n + 1]);
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
      this.lanes.get(message.id)?.peaks(message.start_samples, message.peaks);
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

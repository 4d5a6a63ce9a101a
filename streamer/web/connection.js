// One stream on the server: the client's side of the native protocol (docs/protocol.md), which survives a broken
// connection. Sound is kept until the server has said that it is safe, so nothing that was said gets lost.

import { RATE } from "./rings.js";

const BYTES = 2; // of a sample, pcm_s16le
const MOST_KEPT_S = 90; // sound that waits for a server that does not come back
const MOST_BUFFERED = 256 * 1024; // bytes in the browser's own queue, from which on sound waits here
const LONGEST_WAIT_S = 15; // from one try to connect to the next
const KEEP_ALIVE_S = 8;

// Sound and messages in their order, each from when it was handed in until the server needs it no more.
class Kept {
  constructor() {
    this.items = []; // {start, end, block} for sound, {number, text} for messages; start and end in bytes
    this.bytes = 0; // of sound, handed in so far
    this.messages = 0;
    this.cursor = 0; // the next item to send
    this.settings = null; // of the last change that the server needs no more
  }

  sound(block) {
    this.items.push({ start: this.bytes, end: this.bytes + block.length * BYTES, block });
    this.bytes += block.length * BYTES;
  }

  message(text, settings = null) {
    this.items.push({ number: this.messages, text, settings });
    this.messages += 1;
  }

  get firstByte() {
    return this.items.find((item) => item.block)?.start ?? this.bytes;
  }

  forget({ bytes, messages }) {
    for (const item of this.items) if (item.settings && item.number < messages) this.settings = item.settings;
    let gone = 0;
    while (gone < this.cursor) {
      const item = this.items[gone];
      if (item.block ? item.end > bytes : item.number >= messages) break;
      gone += 1;
    }
    this.items.splice(0, gone);
    this.cursor -= gone;
  }

  // Goes back to where the server is. False: sound that it needs is not here any more.
  rewind(bytes, messages) {
    if (bytes < this.firstByte || bytes > this.bytes) return false;
    this.skip = { bytes, messages };
    this.cursor = 0;
    return true;
  }

  // What is to be sent next, if anything.
  next() {
    while (this.cursor < this.items.length) {
      const item = this.items[this.cursor];
      this.cursor += 1;
      if (!this.skip) return item;
      if (!item.block && item.number >= this.skip.messages) return item;
      if (item.block && item.end > this.skip.bytes) {
        const cut = Math.max(0, (this.skip.bytes - item.start) / BYTES);
        return { ...item, block: cut ? item.block.subarray(cut) : item.block };
      }
    }
    return null;
  }
}

export class StreamConnection {
  // url: of /v1/stream. key: API key or "". settings: as in the message `start`. model: one that the server offers, or "".
  // onEvent(event): of the stream, each once. onState(state, details): see states.js. onBegin(samples): a stream without
  // a past begins, at so many samples after the first that was handed in.
  constructor({ url, key, settings, model = "", onEvent, onState, onBegin }) {
    Object.assign(this, { url, key, settings, model, onEvent, onState, onBegin });
    this.lost = 0; // samples that were too old to be sent
    this.#fresh();
    this.base = 0; // samples before the stream began
    this.tries = 0;
    this.ending = false;
    this.socket = null;
    this.timer = null;
    this.keepAlive = setInterval(() => this.#say({ type: "keep_alive" }), KEEP_ALIVE_S * 1000);
  }

  #fresh() {
    this.base = (this.base ?? 0) + (this.kept ? this.kept.bytes / BYTES : 0);
    this.kept = new Kept();
    this.ready = null;
    this.resume = null;
    this.lastSeq = 0;
    this.finals = 0;
    this.heardBytes = 0;
    this.sentBytes = 0;
    this.decided = 0; // samples that the server has heard
    this.said = 0; // end of the last final
  }

  // Goes on with a new stream, which begins with the sound of the old one from this sample on.
  #freshFrom(samples) {
    const blocks = this.kept.items.filter((item) => item.block && item.end > samples * BYTES);
    const end = this.kept.bytes;
    const first = blocks.length ? Math.max(blocks[0].start, samples * BYTES) : end;
    const cut = blocks.length ? (first - blocks[0].start) / BYTES : 0;
    this.#fresh();
    this.base -= (end - first) / BYTES;
    blocks.forEach((item, n) => this.kept.sound(n ? item.block : item.block.subarray(cut)));
  }

  open() {
    clearTimeout(this.timer);
    this.accepted = false; // `ready` came
    this.endSent = false;
    this.problem = null;
    this.onState("connecting", {});
    try {
      this.socket = new WebSocket(this.url);
    } catch (error) {
      this.#failed({ code: "bad_address", message: String(error.message) });
      return;
    }
    this.socket.binaryType = "arraybuffer";
    this.opened = false;
    this.socket.onopen = () => {
      this.opened = true;
      this.#start();
    };
    this.socket.onmessage = (message) => this.#received(JSON.parse(message.data));
    this.socket.onclose = (event) => this.#closed(event);
  }

  #start() {
    // a stream that goes on begins with the settings it had there; later changes are sent again
    const settings = this.resume ? (this.kept.settings ?? this.first) : this.settings;
    if (!this.resume) this.first = settings;
    const start = { type: "start", audio: { encoding: "pcm_s16le", rate: RATE, channels: 1 }, settings };
    if (this.key) start.key = this.key;
    if (this.model) start.model = this.model;
    if (this.resume) start.resume = { ...this.resume, last_seq: this.lastSeq, finals: this.finals };
    this.socket.send(JSON.stringify(start));
  }

  #received(event) {
    if (event.type === "ready") {
      this.#accept(event);
    } else if (event.type === "problem") {
      this.problem = event;
      if (!event.fatal) this.onEvent(event);
    } else if (event.type === "ended") {
      this.ended = true;
    } else if (event.seq > this.lastSeq) {
      this.lastSeq = event.seq;
      if (event.type === "acknowledged") this.#acknowledged(event);
      if (event.type === "final") {
        this.finals = event.index + 1;
        this.said = Math.round(event.end_s * RATE);
      }
      if (event.type === "activity") this.decided = Math.round((event.start_s + event.probabilities.length * event.hop_s) * RATE);
      this.onEvent(event);
    }
  }

  #accept(event) {
    const first = !this.resume;
    if (!first && (event.resumed === "new" || !this.kept.rewind(event.bytes, event.messages))) {
      // the server knows nothing of the stream and asks for sound that is gone: a new stream
      this.#freshFrom(this.said);
      this.socket.onclose = null;
      this.socket.close();
      this.open();
      return;
    }
    if (first) {
      this.onBegin(this.base);
      if (this.first !== this.settings) this.kept.message(JSON.stringify({ type: "settings", settings: this.settings }), this.settings);
    }
    this.accepted = true;
    this.tries = 0;
    this.ready = event;
    this.sentBytes = event.bytes;
    this.heardBytes = Math.max(this.heardBytes, event.bytes);
    this.resume = { session: event.session, point: this.resume?.point ?? { bytes: 0, origin_samples: 0, segment_samples: 0, finals: 0, messages: 0 } };
    this.onState("live", { ready: event });
    this.#pump();
    if (this.ending) this.end();
  }

  #acknowledged(event) {
    this.resume.point = event.point;
    this.heardBytes = event.heard_bytes;
    this.kept.forget(event.point);
    this.#pump();
  }

  #say(message) {
    if (this.accepted && this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  // block: Int16Array at 16 kHz.
  send(block) {
    this.kept.sound(block);
    if (this.kept.bytes - this.kept.firstByte > MOST_KEPT_S * RATE * BYTES) {
      this.lost += (this.kept.bytes - Math.max(this.heardBytes, this.kept.firstByte)) / BYTES;
      this.#fresh(); // what is older helps nobody who watches live
      if (this.accepted) {
        this.socket.onclose = null;
        this.socket.close();
        this.open();
      }
      return;
    }
    this.#pump();
  }

  #pump() {
    const ahead = (this.ready?.window_s ?? 5) * RATE * BYTES;
    while (this.accepted && this.socket.readyState === WebSocket.OPEN) {
      if (this.socket.bufferedAmount > MOST_BUFFERED || this.sentBytes - this.heardBytes > ahead) return;
      const item = this.kept.next();
      if (!item) {
        if (this.ending) this.end();
        return;
      }
      if (item.block) {
        this.socket.send(item.block);
        this.sentBytes = item.end;
      } else {
        this.socket.send(item.text);
      }
    }
  }

  // Sound that was handed in and that the server has not heard.
  get waiting() {
    return (this.kept.bytes - this.heardBytes) / BYTES;
  }

  change(settings) {
    this.settings = settings;
    // before the first `ready` the settings go with `start`
    if (!this.resume) return;
    this.kept.message(JSON.stringify({ type: "settings", settings }), settings);
    this.#pump();
  }

  flush() {
    this.kept.message(JSON.stringify({ type: "flush" }));
    this.#pump();
  }

  // No more sound comes; the state is "ended" when all results are there. Sound that waits goes first.
  end() {
    this.ending = true;
    if (!this.resume) this.close();
    else if (this.accepted && this.kept.cursor >= this.kept.items.length && !this.endSent) {
      this.endSent = true;
      this.#say({ type: "end" });
    }
  }

  close() {
    this.gone = true;
    clearTimeout(this.timer);
    clearInterval(this.keepAlive);
    if (this.socket) {
      this.socket.onclose = null;
      this.socket.close();
    }
    this.accepted = false;
    this.onState("ended", {});
  }

  retry() {
    this.tries = 0;
    if (this.socket) this.socket.onclose = null;
    this.socket?.close();
    this.open();
  }

  #closed(event) {
    const problem = this.problem ?? { code: "", message: event.reason };
    const resuming = this.resume && !this.accepted;
    this.accepted = false;
    if (this.ended && this.ending) {
      this.close();
    } else if (this.ended) {
      // the server goes away in order and has told all that it heard: the sound after that begins a new stream
      this.ended = false;
      this.#freshFrom(this.decided);
      this.#again(0.5, "broken", problem);
    } else if (resuming && problem.code === "bad_settings") {
      this.#freshFrom(this.said); // the server that is there now has another model
      this.#again(0.5, "broken", problem);
    } else if (!this.opened) {
      this.#unopened(problem);
    } else if (event.code === 1013 || problem.retry_after_s !== undefined) {
      this.#again(problem.retry_after_s ?? 5, "full", problem);
    } else if ([1003, 1007, 1008, 1009].includes(event.code) || problem.fatal) {
      this.#failed(problem, event.code);
    } else {
      // 1006: the line broke; 1001, 1011, 1012: the server goes or comes back
      this.#again(this.#pause(), this.ready ? "broken" : "unreachable", problem);
    }
  }

  // A browser does not tell why a server refused a connection; another question finds out.
  async #unopened(problem) {
    try {
      const answer = await fetch(new URL("/readyz", this.url.replace(/^ws/, "http")), { cache: "no-store" });
      if (answer.status === 503) {
        this.#again(Number(answer.headers.get("retry-after")) || 5, "full", problem);
        return;
      }
    } catch {
      /* nobody is there */
    }
    this.#again(this.#pause(), this.ready ? "broken" : "unreachable", problem);
  }

  // Ever longer, and never the same for two pages.
  #pause() {
    return Math.min(LONGEST_WAIT_S, 0.5 * 2 ** this.tries) * (0.75 + Math.random() / 2);
  }

  #again(wait, state, problem) {
    if (this.gone) return;
    this.tries += 1;
    this.onState(state, { problem, wait });
    this.timer = setTimeout(() => this.open(), wait * 1000);
  }

  #failed(problem, close) {
    clearInterval(this.keepAlive);
    this.onState("refused", { problem, close });
  }
}

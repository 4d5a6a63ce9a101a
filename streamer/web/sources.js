// Where a lane's sound comes from. Every source has `name`, `start(take)`, `pause()`, `resume()`, `stop()` and
// `dropped`; `take` is given Int16Array blocks at 16 kHz at the pace of speech, and null at the end.

import { Resampler, toInt16 } from "./resampling.js";
import { RATE } from "./rings.js";

const FILE_BLOCK = 640; // samples: 40 ms
const LONGEST_FILE_S = 2 * 3600; // decoded, two hours take half a gigabyte

// A reason why there is no sound, by its `code` in states.js.
export class SourceError extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

export class Microphone {
  // deviceId: of the browser's list, "" for the default.
  constructor(deviceId = "") {
    this.deviceId = deviceId;
    this.name = "Microphone";
    this.dropped = 0;
    this.paused = false;
  }

  async start(take) {
    this.take = take;
    const media = navigator.mediaDevices;
    if (!media?.getUserMedia) throw new SourceError("insecure", "this page was not loaded over https or from localhost");
    // what a browser does to make voices pleasant for people harms recognition
    const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    if (this.deviceId) audio.deviceId = { exact: this.deviceId };
    try {
      this.stream = await media.getUserMedia({ audio });
    } catch (error) {
      const codes = { NotAllowedError: "denied", SecurityError: "denied", NotFoundError: "no_microphone", OverconstrainedError: "no_microphone", NotReadableError: "busy" };
      throw new SourceError(codes[error.name] ?? "no_microphone", error.message);
    }
    const [track] = this.stream.getAudioTracks();
    this.name = track.label || "Microphone";
    track.onended = () => {
      this.stop();
      take(null, new SourceError("unplugged", this.name));
    };
    this.context = await this.#context();
    this.resampler = new Resampler(this.context.sampleRate);
    try {
      await this.context.audioWorklet.addModule(new URL("./capture_worklet.js", import.meta.url));
    } catch (error) {
      throw new SourceError("unreachable", error.message); // the server did not give the file
    }
    const node = new AudioWorkletNode(this.context, "capture", { numberOfOutputs: 0 });
    node.port.onmessage = ({ data }) => {
      this.dropped = data.dropped;
      if (!this.paused) take(toInt16(this.resampler.push(data.block)));
    };
    this.input.connect(node);
    await this.context.resume();
  }

  // At 16 kHz the browser resamples; one that cannot records at the card's rate, and Resampler does it.
  async #context() {
    for (const options of [{ sampleRate: RATE }, {}]) {
      const context = new AudioContext(options);
      try {
        this.input = context.createMediaStreamSource(this.stream);
        return context;
      } catch (error) {
        await context.close();
        if (!options.sampleRate) throw new SourceError("no_microphone", error.message);
      }
    }
    return null;
  }

  pause() {
    this.paused = true;
  }

  resume() {
    this.paused = false;
  }

  stop() {
    for (const track of this.stream?.getTracks() ?? []) track.stop();
    if (this.context && this.context.state !== "closed") this.context.close();
  }
}

// A recording, played at its own pace.
export class Recording {
  // file: a File. audible: whether it is heard, too.
  constructor(file, audible = true) {
    this.file = file;
    this.name = file.name;
    this.audible = audible;
    this.dropped = 0;
    this.at = 0; // samples given
  }

  async start(take) {
    this.take = take;
    const decoder = new OfflineAudioContext(1, 1, RATE); // decodes to its own rate
    let sound;
    try {
      sound = await decoder.decodeAudioData(await this.file.arrayBuffer());
    } catch {
      throw new SourceError("bad_file", this.file.name);
    }
    if (sound.duration > LONGEST_FILE_S) throw new SourceError("long_file", this.file.name);
    const mixed = new Float32Array(sound.length);
    for (let c = 0; c < sound.numberOfChannels; c += 1) {
      const channel = sound.getChannelData(c);
      for (let n = 0; n < mixed.length; n += 1) mixed[n] += channel[n] / sound.numberOfChannels;
    }
    this.samples = toInt16(mixed);
    this.duration = this.samples.length / RATE;
    this.resume();
  }

  resume() {
    if (this.timer) return;
    this.began = performance.now() - (this.at / RATE) * 1000;
    if (this.audible) this.#play();
    this.timer = setInterval(() => this.#tick(), (FILE_BLOCK / RATE) * 1000);
  }

  #play() {
    this.context ??= new AudioContext({ sampleRate: RATE });
    this.context.resume();
    const buffer = this.context.createBuffer(1, this.samples.length, RATE);
    const channel = buffer.getChannelData(0);
    for (let n = 0; n < channel.length; n += 1) channel[n] = this.samples[n] / 32768;
    this.player = this.context.createBufferSource();
    this.player.buffer = buffer;
    this.player.connect(this.context.destination);
    this.player.start(0, this.at / RATE);
  }

  // Gives what has been played by now; a browser lets a hidden page's clock tick once a second only.
  #tick() {
    const due = Math.min(this.samples.length, ((performance.now() - this.began) / 1000) * RATE);
    while (this.timer && this.at < due && (due - this.at >= FILE_BLOCK || due === this.samples.length)) {
      const end = Math.min(this.at + FILE_BLOCK, this.samples.length);
      this.take(this.samples.slice(this.at, end));
      this.at = end;
    }
    if (this.timer && this.at >= this.samples.length) {
      this.stop();
      this.take(null);
    }
  }

  pause() {
    clearInterval(this.timer);
    this.timer = null;
    this.player?.stop();
    this.player = null;
  }

  stop() {
    if (this.samples) this.pause();
    if (this.context && this.context.state !== "closed") this.context.close();
    this.context = null;
  }
}

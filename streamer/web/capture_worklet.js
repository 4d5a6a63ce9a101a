// Runs in the browser's audio thread: passes the sound on in blocks of about 20 ms.

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.size = Math.max(128, Math.round((sampleRate * 0.02) / 128) * 128);
    this.block = new Float32Array(this.size);
    this.filled = 0;
    this.expected = null; // frame that should come next; another one tells of sound that was dropped
    this.dropped = 0;
    this.heard = 0;
  }

  process(inputs) {
    // while the sound card starts, the clock jumps and nothing is lost
    if (this.expected !== null && currentFrame > this.expected && this.heard > sampleRate) this.dropped += 1;
    const channels = inputs[0];
    const length = channels[0]?.length ?? 128; // a muted track gives no channels: that is silence
    this.expected = currentFrame + length;
    this.heard += length;
    for (let n = 0; n < length; n += 1) {
      let sum = 0;
      for (const channel of channels) sum += channel[n];
      this.block[this.filled] = channels.length ? sum / channels.length : 0;
      this.filled += 1;
      if (this.filled === this.size) {
        this.port.postMessage({ block: this.block, dropped: this.dropped }, [this.block.buffer]);
        this.block = new Float32Array(this.size);
        this.filled = 0;
      }
    }
    return true;
  }
}

registerProcessor("capture", Capture);

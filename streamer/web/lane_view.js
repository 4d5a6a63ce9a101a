// Draws a lane: sound, speech and words over one time axis whose right end is now.

import { RATE } from "./rings.js";
import { SoundPicture } from "./sound_picture.js";
import { calm, onTheme, theme } from "./theme.js";
import { WordRows } from "./word_rows.js";

const RULER = { top: 0, height: 16 };
const WAVEFORM = { top: 18, height: 56 };
const SPECTROGRAM = { top: 78, height: 56 };
const PROBABILITY = { top: 140, height: 36 };
const SPEAKERS = { top: 178, height: 14 };
const WORDS = { top: 196, row: 24, rows: 3 };
export const HEIGHT = WORDS.top + WORDS.row * WORDS.rows + 2;
const SOUND_BEHIND = 640; // samples by which the picture is late, so that it moves evenly between blocks

export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60), whole % 60];
  return h ? `${h}:${String(m).padStart(2, "0")}:${String(s).padStart(2, "0")}` : `${m}:${String(s).padStart(2, "0")}`;
}

export class LaneView {
  // canvas: its width follows the page. lane: {sound, spectrum, timeline, threshold}; spectrum null: sound is not known.
  constructor(canvas, lane, seconds = 10) {
    this.canvas = canvas;
    this.lane = lane;
    this.pen = canvas.getContext("2d", { alpha: false });
    this.seconds = seconds;
    this.picture = new SoundPicture(lane.spectrum, seconds);
    this.rows = new WordRows(WORDS.rows);
    this.seen = { total: 0, at: 0 };
    this.dirty = true;
    this.drawnAt = 0;
    this.observer = new ResizeObserver(() => this.#resize());
    this.observer.observe(canvas);
    this.forgetTheme = onTheme(() => {
      this.picture.repaint();
      this.dirty = true;
    });
    this.#resize();
  }

  close() {
    this.observer.disconnect();
    this.forgetTheme();
  }

  show(seconds) {
    this.seconds = seconds;
    this.picture.resize(seconds);
    this.#resize();
  }

  #resize() {
    const ratio = Math.min(2, devicePixelRatio || 1);
    this.width = Math.max(100, this.canvas.clientWidth);
    this.canvas.width = Math.round(this.width * ratio);
    this.canvas.height = Math.round(HEIGHT * ratio);
    this.ratio = ratio;
    this.rows.reset(this.width / (this.seconds * RATE));
    this.dirty = true;
  }

  // The sample at the right edge.
  #head(now) {
    const { total } = this.lane.sound;
    if (total !== this.seen.total) this.seen = { total, at: now };
    const moved = Math.min(SOUND_BEHIND, ((now - this.seen.at) / 1000) * RATE);
    const head = Math.max(0, total - SOUND_BEHIND + moved);
    if (!calm.matches) return head;
    const step = (this.seconds * RATE) / 2; // without motion: the sound fills the page, which then turns by half
    return Math.max(2, Math.ceil(head / step)) * step;
  }

  // Called for every frame; draws only where something has changed.
  frame(now) {
    const head = this.#head(now);
    if (!this.dirty && head === this.lastHead) return false;
    if (calm.matches && now - this.drawnAt < 250) return false;
    this.dirty = calm.matches;
    this.lastHead = head;
    this.drawnAt = now;
    const span = this.seconds * RATE;
    this.#draw(head - span, head);
    return true;
  }

  #draw(from, to) {
    const { pen, width, lane } = this;
    const colours = theme();
    const x = (sample) => ((sample - from) / (to - from)) * width;
    pen.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    pen.fillStyle = colours.panel;
    pen.fillRect(0, 0, width, HEIGHT);
    pen.textBaseline = "middle";
    this.#speech(pen, colours, x, from, to);
    this.picture.draw(pen, from, to, width, WAVEFORM, SPECTROGRAM);
    this.#ruler(pen, colours, x, from, to);
    this.#probability(pen, colours, x, from, to);
    this.#unread(pen, colours, x, to);
    this.#speakers(pen, colours, x, from, to);
    this.rows.draw(pen, colours, lane.timeline.wordsWithin(from, to), x, WORDS);
    this.#marks(pen, colours, x, from, to);
  }

  // Speech: a shade with edges behind everything, and a bar on top of it.
  #speech(pen, colours, x, from, to) {
    for (const span of this.lane.timeline.speech) {
      const end = span.end ?? to;
      if (end < from || span.start > to) continue;
      const [left, right] = [x(span.start), x(end)];
      pen.fillStyle = colours.speech;
      pen.fillRect(left, WAVEFORM.top, right - left, PROBABILITY.top + PROBABILITY.height - WAVEFORM.top);
      pen.fillStyle = colours["speech-edge"];
      pen.fillRect(left, WAVEFORM.top, right - left, 2);
      pen.fillRect(left, WAVEFORM.top, 1, 8);
      if (span.end !== null) pen.fillRect(right - 1, WAVEFORM.top, 1, 8);
    }
  }

  #ruler(pen, colours, x, from, to) {
    pen.font = `11px ${colours.font}`;
    pen.fillStyle = colours.muted;
    const every = (this.width / this.seconds) * 2 < 90 ? 5 : 2; // seconds from one label to the next
    for (let s = Math.max(0, Math.ceil(from / RATE)); s * RATE <= to; s += 1) {
      const at = x(s * RATE);
      pen.fillRect(at, RULER.height - (s % every ? 3 : 6), 1, s % every ? 3 : 6);
      if (s % every === 0) pen.fillText(clock(s), at + 4, RULER.height / 2);
    }
  }

  #probability(pen, colours, x, from, to) {
    const { probabilities, hop } = this.lane.timeline;
    const bottom = PROBABILITY.top + PROBABILITY.height;
    const first = Math.max(probabilities.oldest, Math.floor(from / hop));
    const last = Math.min(probabilities.total, Math.ceil(to / hop));
    pen.fillStyle = colours.probability;
    pen.beginPath();
    for (let row = first; row < last; row += 1) {
      const value = probabilities.values[probabilities.at(row)];
      if (value < 0) continue;
      const left = x(row * hop);
      const height = value * PROBABILITY.height;
      pen.rect(left, bottom - height, x((row + 1) * hop) - left + 0.3, height);
    }
    pen.fill();
    const known = Math.max(0, x(first * hop));
    pen.fillRect(known, bottom - 1, Math.max(0, x(last * hop) - known), 1);
    const y = bottom - this.lane.threshold * PROBABILITY.height;
    pen.strokeStyle = colours.threshold;
    pen.lineWidth = 1;
    pen.setLineDash([5, 4]);
    pen.beginPath();
    pen.moveTo(0, y);
    pen.lineTo(this.width, y);
    pen.stroke();
    pen.setLineDash([]);
    pen.font = `11px ${colours.font}`;
    const label = `speech ≥ ${Math.round(this.lane.threshold * 100)}%`;
    pen.fillStyle = colours.panel;
    pen.fillRect(0, PROBABILITY.top - 1, pen.measureText(label).width + 8, 14);
    pen.fillStyle = colours.muted;
    pen.fillText(label, 4, PROBABILITY.top + 6);
  }

  // What the model has not read yet is hatched: the width of it is how late the text is.
  #unread(pen, colours, x, to) {
    const left = Math.max(0, x(this.lane.read));
    if (left >= this.width) return;
    pen.strokeStyle = colours.unread;
    pen.lineWidth = 1;
    pen.beginPath();
    for (let at = left; at < x(to); at += 6) {
      pen.moveTo(at, PROBABILITY.top + PROBABILITY.height);
      pen.lineTo(Math.min(at + 10, this.width), PROBABILITY.top + PROBABILITY.height - 10);
    }
    pen.stroke();
  }

  #speakers(pen, colours, x, from, to) {
    pen.font = `11px ${colours.font}`;
    for (const span of this.lane.timeline.speakers) {
      if (span.end < from || span.start > to) continue;
      const [left, right] = [x(span.start), x(span.end)];
      pen.strokeStyle = colours.ink;
      pen.strokeRect(left + 0.5, SPEAKERS.top + 0.5, right - left - 1, SPEAKERS.height - 1);
      pen.fillStyle = colours.ink;
      pen.fillText(span.speaker, Math.max(4, left + 4), SPEAKERS.top + SPEAKERS.height / 2 + 1, Math.max(1, right - left - 8));
    }
  }

  // Where segments ended, and why.
  #marks(pen, colours, x, from, to) {
    const { finals } = this.lane.timeline;
    pen.font = `11px ${colours.font}`;
    for (let n = finals.length - 1; n >= 0 && finals[n].end >= from; n -= 1) {
      if (finals[n].end > to) continue;
      const at = Math.round(x(finals[n].end)) + 0.5;
      pen.strokeStyle = colours.mark;
      pen.setLineDash([2, 3]);
      pen.beginPath();
      pen.moveTo(at, WAVEFORM.top);
      pen.lineTo(at, HEIGHT);
      pen.stroke();
      pen.setLineDash([]);
      pen.textAlign = "right";
      const label = `${finals[n].reason} ▸`;
      const wide = pen.measureText(label).width;
      pen.fillStyle = colours.panel;
      pen.fillRect(at - wide - 5, WAVEFORM.top + 3, wide + 4, 13);
      pen.fillStyle = colours.mark;
      pen.fillText(label, at - 3, WAVEFORM.top + 10);
      pen.textAlign = "left";
    }
  }
}

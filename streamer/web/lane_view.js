// Draws a lane: sound, speech and words over one time axis whose right end is now. Pixels and samples of the axis are
// counted from the beginning of the lane.

import { RATE } from "./rings.js";
import { SoundPicture } from "./sound_picture.js";
import { calm, onTheme, theme } from "./theme.js";
import { Tiles } from "./tiles.js";
import { WordRows } from "./word_rows.js";

const RULER = { top: 0, height: 16 };
const WAVEFORM = { top: 18, height: 56 };
const SPECTROGRAM = { top: 78, height: 56 };
export const PROBABILITY = { top: 140, height: 36 };
const SPEAKERS = { top: 178, height: 14 };
const WORDS = { top: 196, row: 24, rows: 3 };
export const HEIGHT = WORDS.top + WORDS.row * WORDS.rows + 2;
const SOUND_BEHIND = 640; // samples by which the picture is late, so that it moves evenly between blocks
const MARGIN = 140; // pixels that a label reaches at most from its place, to the left or to the right

export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60), whole % 60];
  return h ? `${h}:${String(m).padStart(2, "0")}:${String(s).padStart(2, "0")}` : `${m}:${String(s).padStart(2, "0")}`;
}

// A speaker where there is no room for a name.
function initials(speaker) {
  if (speaker === "unknown") return "?";
  return /^speaker (\d+)$/.exec(speaker)?.[1] ?? speaker.slice(0, 1);
}

export class LaneView {
  // frame: an element whose width follows the page; strip: in it, see Tiles. lane: {sound, spectrum, timeline, read}.
  constructor(frame, strip, lane, seconds = 10) {
    this.element = frame;
    this.lane = lane;
    this.seconds = seconds;
    this.tiles = new Tiles(strip);
    this.picture = new SoundPicture(lane.spectrum, seconds);
    this.rows = new WordRows(WORDS.rows);
    this.seen = { total: 0, at: 0 };
    this.painted = 0; // samples of sound that stand in the picture
    this.read = 0;
    this.drawnAt = 0;
    this.visible = true;
    this.paint = (pen, left, right) => this.#paint(pen, left, right);
    this.observer = new ResizeObserver(() => this.#resize());
    this.observer.observe(frame);
    // what is scrolled out of sight is not painted
    this.looking = new IntersectionObserver((entries) => {
      this.visible = entries.at(-1).isIntersecting;
    });
    this.looking.observe(frame);
    this.forgetTheme = onTheme(() => {
      this.picture.repaint();
      this.repaint();
    });
    this.forgetTimeline = lane.timeline.onChange((sample) => this.#changed(sample));
    this.#resize();
  }

  close() {
    this.observer.disconnect();
    this.looking.disconnect();
    this.forgetTheme();
    this.forgetTimeline();
  }

  show(seconds) {
    this.seconds = seconds;
    this.picture.resize(seconds);
    this.#resize();
  }

  repaint() {
    this.tiles.changed(-Infinity);
    this.arranged = false; // words have no rows yet; something is to be painted
  }

  #changed(sample) {
    this.tiles.changed(sample * this.scale - MARGIN);
    this.arranged = false;
  }

  #resize() {
    this.width = Math.max(100, this.element.clientWidth);
    this.scale = this.width / (this.seconds * RATE); // pixels of a sample
    this.tiles.layout(this.width, HEIGHT, Math.min(2, devicePixelRatio || 1));
    this.rows.reset(this.scale);
    this.repaint();
  }

  // The sample at the right edge.
  #head(now) {
    const { total } = this.lane.sound;
    if (total !== this.seen.total) {
      this.seen.total = total;
      this.seen.at = now;
    }
    const behind = this.lane.behind ?? SOUND_BEHIND;
    const head = Math.max(0, total - behind + Math.min(behind, ((now - this.seen.at) / 1000) * RATE));
    if (!calm.matches) return head;
    const step = (this.seconds * RATE) / 2; // without motion: the sound fills the page, which then turns by half
    return Math.max(2, Math.ceil(head / step)) * step;
  }

  // Called for every frame of the page; true where something was painted or moved.
  frame(now) {
    if (!this.visible || (calm.matches && now - this.drawnAt < 250)) return false;
    const head = this.#head(now);
    const { total } = this.lane.sound;
    const fresh = total > this.painted && (calm.matches || (head - this.painted) * this.scale > -1);
    if (head === this.lastHead && !fresh && this.arranged && this.lane.read === this.read) return false;
    this.lastHead = head;
    this.drawnAt = now;
    if (fresh) {
      this.tiles.changed(this.painted * this.scale - 4);
      this.painted = total;
    }
    if (this.lane.read !== this.read) {
      this.tiles.changed(Math.min(this.read, this.lane.read) * this.scale - 12);
      this.read = this.lane.read;
    }
    if (!this.arranged) this.#arrange(head);
    this.tiles.show(head * this.scale - this.width);
    this.tiles.paint(this.paint);
    return true;
  }

  // Every word gets its row before any tile is painted.
  #arrange(head) {
    this.rows.arrange(this.lane.timeline.wordsWithin(head - this.seconds * RATE, Infinity));
    this.arranged = true;
  }

  // Paints the axis from one pixel to another; samples of labels that begin outside are looked for, too.
  #paint(pen, left, right) {
    const colours = theme();
    const [from, to] = [left / this.scale, right / this.scale];
    const now = Math.min(to, this.painted);
    pen.fillStyle = colours.panel;
    pen.fillRect(left, 0, right - left, HEIGHT);
    pen.textBaseline = "middle";
    this.#speech(pen, colours, from, to, now);
    this.picture.draw(pen, from, now, this.scale, WAVEFORM, SPECTROGRAM);
    this.#ruler(pen, colours, from, to);
    this.#probability(pen, colours, from, to);
    this.#unread(pen, colours, from, now);
    this.#speakers(pen, colours, from, to);
    const margin = MARGIN / this.scale;
    this.rows.draw(pen, colours, this.lane.timeline.wordsWithin(from - 2 * margin, to + margin), left, WORDS);
    this.#marks(pen, colours, from, to + margin);
  }

  // Speech: a shade with edges behind everything, and a bar on top of it.
  #speech(pen, colours, from, to, now) {
    for (const span of this.lane.timeline.speech) {
      const end = span.end ?? now;
      if (end < from || span.start > to) continue;
      const [left, right] = [span.start * this.scale, end * this.scale];
      pen.fillStyle = colours.speech;
      pen.fillRect(left, WAVEFORM.top, right - left, PROBABILITY.top + PROBABILITY.height - WAVEFORM.top);
      pen.fillStyle = colours["speech-edge"];
      pen.fillRect(left, WAVEFORM.top, right - left, 2);
      pen.fillRect(left, WAVEFORM.top, 1, 8);
      if (span.end !== null) pen.fillRect(right - 1, WAVEFORM.top, 1, 8);
    }
  }

  #ruler(pen, colours, from, to) {
    pen.font = `11px ${colours.font}`;
    pen.fillStyle = colours.muted;
    const second = this.scale * RATE;
    const every = second * 2 < 90 ? 5 : 2; // seconds from one label to the next
    for (let s = Math.max(0, Math.floor((from / RATE) - every)); s * RATE <= to; s += 1) {
      pen.fillRect(Math.round(s * second), RULER.height - (s % every ? 3 : 6), 1, s % every ? 3 : 6);
      if (s % every === 0) pen.fillText(clock(s), Math.round(s * second) + 4, RULER.height / 2);
    }
  }

  #probability(pen, colours, from, to) {
    const { probabilities, hop } = this.lane.timeline;
    const bottom = PROBABILITY.top + PROBABILITY.height;
    const first = Math.max(probabilities.oldest, Math.floor(from / hop));
    const last = Math.min(probabilities.total, Math.ceil(to / hop));
    if (first >= last) return;
    const wide = hop * this.scale;
    pen.fillStyle = colours.probability;
    pen.beginPath();
    for (let row = first; row < last; row += 1) {
      const value = probabilities.values[probabilities.at(row)];
      if (value >= 0) pen.rect(row * wide, bottom - value * PROBABILITY.height, wide + 0.3, value * PROBABILITY.height);
    }
    pen.fill();
    pen.fillRect(first * wide, bottom - 1, (last - first) * wide, 1);
  }

  // What the model has not read yet is hatched: the width of it is how late the text is.
  #unread(pen, colours, from, now) {
    const bottom = PROBABILITY.top + PROBABILITY.height;
    const right = now * this.scale;
    const left = Math.max(this.read, from - 12 / this.scale) * this.scale;
    pen.strokeStyle = colours.unread;
    pen.lineWidth = 1;
    pen.beginPath();
    for (let at = Math.floor(left / 6) * 6; at < right; at += 6) {
      pen.moveTo(at, bottom);
      pen.lineTo(at + 10, bottom - 10);
    }
    pen.stroke();
  }

  #speakers(pen, colours, from, to) {
    pen.font = `11px ${colours.font}`;
    for (const span of this.lane.timeline.speakers) {
      if (span.end < from || span.start > to) continue;
      const [left, right] = [span.start * this.scale, span.end * this.scale];
      pen.strokeStyle = colours.ink;
      pen.strokeRect(left + 0.5, SPEAKERS.top + 0.5, right - left - 1, SPEAKERS.height - 1);
      pen.fillStyle = colours.ink;
      const room = right - left - 8;
      const name = this.rows.measure(pen, span.speaker) <= room ? span.speaker : initials(span.speaker);
      if (this.rows.measure(pen, name) <= room + 4) pen.fillText(name, left + 4, SPEAKERS.top + SPEAKERS.height / 2 + 1);
    }
  }

  // Where segments ended, and why.
  #marks(pen, colours, from, to) {
    const { finals } = this.lane.timeline;
    pen.font = `11px ${colours.font}`;
    for (let n = finals.length - 1; n >= 0 && finals[n].end >= from; n -= 1) {
      if (finals[n].end > to) continue;
      const at = Math.round(finals[n].end * this.scale) + 0.5;
      pen.strokeStyle = colours.mark;
      pen.setLineDash([2, 3]);
      pen.beginPath();
      pen.moveTo(at, WAVEFORM.top);
      pen.lineTo(at, HEIGHT);
      pen.stroke();
      pen.setLineDash([]);
      pen.textAlign = "right";
      const label = `${finals[n].reason} ▸`;
      const wide = this.rows.measure(pen, label);
      pen.fillStyle = colours.panel;
      pen.fillRect(at - wide - 5, WAVEFORM.top + 3, wide + 4, 13);
      pen.fillStyle = colours.mark;
      pen.fillText(label, at - 3, WAVEFORM.top + 10);
      pen.textAlign = "left";
    }
  }
}

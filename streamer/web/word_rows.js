// Places words below the sound that they were heard in. Words are often wider than their sound is long, so there are a
// few rows; a word keeps its row while it moves along.

import { RATE } from "./rings.js";
import { theme } from "./theme.js";

const GAP = 7; // pixels between two words of a row
const BAR = 3; // height of the bar that shows confidence
const SIZE = 15; // of letters, in pixels
export const DOUBTFUL = 0.5; // confidence below which a word gets a question mark

const label = (word) => (word.confidence < DOUBTFUL ? `${word.text}?` : word.text);

export class WordRows {
  constructor(rows) {
    this.count = rows;
    this.version = 0;
    this.scale = 1;
    this.widths = new Map(); // of texts, in pixels
    this.ruler = document.createElement("canvas").getContext("2d"); // measures texts
    this.free = new Float64Array(rows);
  }

  // scale: pixels of a sample. Rows are chosen anew.
  reset(scale) {
    this.scale = scale;
    this.version += 1;
    this.widths.clear();
  }

  // Width of a text in the pen's font.
  measure(pen, text) {
    const name = `${pen.font} ${text}`;
    let width = this.widths.get(name);
    if (width === undefined) {
      if (this.widths.size > 2000) this.widths.clear();
      width = pen.measureText(text).width;
      this.widths.set(name, width);
    }
    return width;
  }

  // Gives each word without a row the first one that is free where it begins, else the one that is free soonest.
  arrange(words) {
    this.ruler.font = `${SIZE}px ${theme().font}`;
    this.free.fill(-Infinity);
    for (const word of [...words].sort((a, b) => a.start - b.start)) {
      if (word.layout !== this.version) {
        word.layout = this.version;
        word.row = this.free.findIndex((end) => end <= word.start);
        if (word.row < 0) word.row = this.free.indexOf(Math.min(...this.free));
      }
      const wide = (this.measure(this.ruler, label(word)) + GAP) / this.scale;
      this.free[word.row] = Math.max(this.free[word.row], word.start + wide, word.end);
    }
  }

  // words: arranged ones. left: pixel of the axis from which on something is painted. area: {top, row} in pixels.
  draw(pen, colours, words, left, area) {
    const upright = `${SIZE}px ${colours.font}`;
    for (const word of words) {
      const text = label(word);
      const at = word.start * this.scale;
      pen.font = word.stable ? upright : `italic ${upright}`;
      if (Math.max(word.end * this.scale, at + this.measure(pen, text) + 4) < left) continue;
      const top = area.top + (word.row ?? 0) * area.row;
      this.#bar(pen, colours, word, at, word.end * this.scale, top);
      pen.fillStyle = word.stable ? colours.ink : colours.muted;
      pen.fillText(text, at, top + 14);
    }
  }

  // The bar is as long as the word sounds; the solid share of it is the confidence, the rest an outline.
  #bar(pen, colours, word, left, right, top) {
    const wide = Math.max(4, right - left);
    const colour = word.stable ? colours.ink : colours.muted;
    pen.strokeStyle = colour;
    pen.lineWidth = 1;
    if (!word.stable) pen.setLineDash([2, 2]);
    pen.strokeRect(left + 0.5, top + 0.5, wide - 1, BAR);
    pen.setLineDash([]);
    pen.fillStyle = colour;
    pen.fillRect(left, top, wide * word.confidence, BAR + 1);
  }
}

// A word for people who cannot see the picture.
export function spoken(word) {
  const seconds = (word.start / RATE).toFixed(1);
  return `${word.text}, ${Math.round(word.confidence * 100)} percent sure, at ${seconds} seconds`;
}

// Places words below the sound that they were heard in. Words are often wider than their sound is long, so there are a
// few rows; a word keeps its row while it moves along.

import { RATE } from "./rings.js";

const GAP = 7; // pixels between two words of a row
const BAR = 3; // height of the bar that shows confidence
export const DOUBTFUL = 0.5; // confidence below which a word gets a question mark

export class WordRows {
  constructor(rows) {
    this.count = rows;
    this.version = 0;
    this.pixels = 1;
    this.widths = new Map(); // of texts, in pixels
  }

  // pixels: of a sample. Rows are chosen anew.
  reset(pixels) {
    this.pixels = pixels;
    this.version += 1;
  }

  #width(pen, text) {
    let width = this.widths.get(text);
    if (width === undefined) {
      if (this.widths.size > 2000) this.widths.clear();
      width = pen.measureText(text).width;
      this.widths.set(text, width);
    }
    return width;
  }

  // Gives each word without a row the first one that is free where it begins, else the one that is free soonest.
  #assign(pen, words) {
    const free = new Array(this.count).fill(-Infinity);
    for (const word of words) {
      if (word.layout !== this.version) {
        word.layout = this.version;
        word.row = free.findIndex((end) => end <= word.start);
        if (word.row < 0) word.row = free.indexOf(Math.min(...free));
      }
      const wide = (this.#width(pen, word.label) + GAP) / this.pixels;
      free[word.row] = Math.max(free[word.row], word.start + wide, word.end);
    }
  }

  // words: those in view. x: pixel of a sample. area: {top, row} in pixels.
  draw(pen, colours, words, x, area) {
    const font = colours.font;
    pen.font = `15px ${font}`;
    const ordered = [];
    for (const word of words) {
      word.label ??= word.confidence < DOUBTFUL ? `${word.text}?` : word.text;
      ordered.push(word);
    }
    ordered.sort((a, b) => a.start - b.start);
    this.#assign(pen, ordered);
    for (const word of ordered) {
      const top = area.top + word.row * area.row;
      const [left, right] = [x(word.start), x(word.end)];
      this.#bar(pen, colours, word, left, right, top);
      pen.font = word.stable ? `15px ${font}` : `italic 15px ${font}`;
      pen.fillStyle = word.stable ? colours.ink : colours.muted;
      pen.fillText(word.label, left, top + 14);
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

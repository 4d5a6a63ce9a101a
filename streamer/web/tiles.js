// A picture that is wider than its frame and moves: it is cut into tiles, small canvases side by side in a strip. Moving
// it is a transform, which the browser's compositor does without painting; only a tile whose content has changed is
// painted, and of it only what lies right of the change. Tiles that leave on the left come back on the right.

const WIDTH = 200; // pixels of a tile
const FAR = 512; // tiles after which places are counted anew, so that they stay small numbers

export class Tiles {
  // strip: an element in a frame that hides what is outside of it.
  constructor(strip) {
    this.strip = strip;
    this.all = []; // a ring: tile n of the axis is in place n % length
    this.base = 0; // the tile at the strip's own left edge
    this.moved = null;
  }

  // width, height: of the frame in pixels. ratio: device pixels of a pixel. Everything is to be painted anew.
  layout(width, height, ratio) {
    this.ratio = ratio;
    const device = Math.round(WIDTH * ratio);
    this.wide = device / ratio; // a whole number of device pixels, so that no seam is seen
    this.width = width;
    this.strip.replaceChildren();
    this.all = Array.from({ length: Math.ceil(width / this.wide) + 1 }, () => {
      const canvas = document.createElement("canvas");
      canvas.width = device;
      canvas.height = Math.round(height * ratio);
      canvas.className = "tile";
      canvas.style.width = `${this.wide}px`;
      canvas.style.height = `${height}px`;
      this.strip.append(canvas);
      return { canvas, pen: canvas.getContext("2d", { alpha: false }), number: null, left: 0, from: 0 };
    });
    this.moved = null;
  }

  // Shows the axis from this pixel on.
  show(offset) {
    const left = Math.round(offset * this.ratio) / this.ratio;
    if (left === this.moved) return;
    this.moved = left;
    const first = Math.floor(left / this.wide);
    if (first < this.base || first > this.base + FAR) {
      this.base = first;
      for (const tile of this.all) if (tile.number !== null) this.#place(tile);
    }
    for (let number = first; number < first + this.all.length; number += 1) {
      const tile = this.all[((number % this.all.length) + this.all.length) % this.all.length];
      if (tile.number === number) continue;
      tile.number = number;
      tile.left = number * this.wide;
      tile.from = 0;
      this.#place(tile);
    }
    this.strip.style.transform = `translateX(${this.base * this.wide - left}px)`;
  }

  #place(tile) {
    tile.canvas.style.left = `${(tile.number - this.base) * this.wide}px`;
  }

  // What lies right of this pixel of the axis has changed.
  changed(pixel) {
    for (const tile of this.all) tile.from = Math.min(tile.from, Math.max(0, pixel - tile.left));
  }

  // Paints what has changed: paint(pen, left, right) with pixels of the axis; gives how many tiles were painted.
  paint(paint) {
    let painted = 0;
    for (const tile of this.all) {
      if (tile.number === null || tile.from >= this.wide) continue;
      const { pen, left } = tile;
      const from = Math.floor(tile.from * this.ratio) / this.ratio;
      pen.setTransform(this.ratio, 0, 0, this.ratio, -left * this.ratio, 0);
      pen.save();
      pen.beginPath();
      pen.rect(left + from, 0, this.wide - from, tile.canvas.height);
      pen.clip();
      paint(pen, left + from, left + this.wide);
      pen.restore();
      tile.from = Infinity;
      painted += 1;
    }
    return painted;
  }
}

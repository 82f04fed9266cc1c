/** The picture with what is to be seen on it. */

import { paint } from "./heatmap.js";

const SIDE = 512; // pixels of the longer side of the canvas
const FADED = "rgb(128 128 128 / .72)"; // over what the network does not see

export class Stage {
  constructor(canvas) {
    this.canvas = canvas;
    this.pen = canvas.getContext("2d", { willReadFrequently: true });
  }

  /**
   * @param {ImageBitmap} bitmap the whole picture.
   * @param {number[]|null} seen left, top, right, bottom of what the network sees, as shares of the picture.
   */
  setPicture(bitmap, seen, side = SIDE) {
    const scale = side / Math.max(bitmap.width, bitmap.height);
    const width = Math.max(1, Math.round(scale * bitmap.width)), height = Math.max(1, Math.round(scale * bitmap.height));
    Object.assign(this.canvas, { width, height });
    this.pen.imageSmoothingQuality = "high";
    this.pen.drawImage(bitmap, 0, 0, width, height);
    this.box = pixelBox(seen ?? [0, 0, 1, 1], width, height);
    this.whole = this.box.width >= width - 2 && this.box.height >= height - 2;
    this.before = this.pen.getImageData(0, 0, width, height);
  }

  /**
   * Draws the picture, and over the part that the network sees a map or a picture of it.
   *
   * @param layer { map } as readMap returns it, { bitmap } instead of the picture, { tint } over it, or nothing.
   * @param {number} strength of the layer, 0 to 1.
   */
  draw(layer, strength) {
    const { left, top, width, height } = this.box;
    this.pen.putImageData(this.before, 0, 0);
    if (layer?.map) {
      const pixels = this.pen.getImageData(left, top, width, height);
      paint(pixels, layer.map, strength);
      this.pen.putImageData(pixels, left, top);
    } else if (layer?.bitmap) {
      this.pen.globalAlpha = strength;
      this.pen.fillStyle = "#fff";
      this.pen.fillRect(left, top, width, height);
      this.pen.drawImage(layer.bitmap, left, top, width, height);
      this.pen.globalAlpha = 1;
    } else if (layer?.tint) {
      this.pen.globalAlpha = strength;
      this.pen.imageSmoothingEnabled = false; // labels have no values between them
      this.pen.drawImage(layer.tint, left, top, width, height);
      this.pen.imageSmoothingEnabled = true;
      this.pen.globalAlpha = 1;
    }
    if (!this.whole) this.fadeOutside();
  }

  /** A frame around a part of the picture, given as shares of its sides. */
  mark([x0, y0, x1, y1]) {
    const { left, top, width, height } = pixelBox([x0, y0, x1, y1], this.canvas.width, this.canvas.height);
    for (const [colour, line] of [["#000", 5], ["#fff", 2.5]]) {
      this.pen.strokeStyle = colour;
      this.pen.lineWidth = line;
      this.pen.strokeRect(left, top, width, height);
    }
  }

  fadeOutside() {
    const { left, top, width, height } = this.box;
    const outside = new Path2D();
    outside.rect(0, 0, this.canvas.width, this.canvas.height);
    outside.rect(left, top, width, height);
    this.pen.fillStyle = FADED;
    this.pen.fill(outside, "evenodd");
  }
}

function pixelBox([x0, y0, x1, y1], width, height) {
  const left = Math.max(0, Math.round(x0 * width)), top = Math.max(0, Math.round(y0 * height));
  return {
    left, top,
    width: Math.max(1, Math.min(width, Math.round(x1 * width)) - left),
    height: Math.max(1, Math.min(height, Math.round(y1 * height)) - top),
  };
}

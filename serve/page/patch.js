/** The part of a catalogue's picture that shows a concept: what it looks for, at a glance. */

import { make } from "./elements.js";
import { greyMap } from "./heatmap.js";

const PART = 0.5; // of the shorter side of the picture
const AROUND = 2; // cells on each side of a peak that count with it: a single bright cell is no place

/**
 * A canvas that fills with the part of a picture where a concept is, once it comes into view.
 *
 * @param image, map addresses of a catalogue's picture and of the map on it
 * @param {number} side pixels of the canvas
 */
export function patchOf(api, image, map, side) {
  const canvas = make("canvas", { width: side, height: side, "aria-hidden": "true" });
  new IntersectionObserver((entries, observer) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    fill(api, canvas, image, map).catch(() => canvas.classList.add("missing")); // the words beside it say the same
  }, { rootMargin: "300px" }).observe(canvas);
  return canvas;
}

async function fill(api, canvas, ...addresses) {
  const [photo, map] = await Promise.all(addresses.map((address) => api.bitmap(address)));
  const [across, down] = peakOf(greyMap(map));
  const part = PART * Math.min(photo.width, photo.height);
  const left = within(across * photo.width - part / 2, photo.width - part);
  const top = within(down * photo.height - part / 2, photo.height - part);
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(photo, left, top, part, part, 0, 0, canvas.width, canvas.height);
}

/** Where a map is strongest, as shares of its width and height. */
function peakOf({ width, height, values }) {
  let most = -1, place = [0.5, 0.5];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const sum = around(values, width, height, x, y);
      if (sum > most) [most, place] = [sum, [(x + 0.5) / width, (y + 0.5) / height]];
    }
  }
  return place;
}

function around(values, width, height, x, y) {
  let sum = 0;
  for (let row = Math.max(0, y - AROUND); row <= Math.min(height - 1, y + AROUND); row++) {
    for (let column = Math.max(0, x - AROUND); column <= Math.min(width - 1, x + AROUND); column++) sum += values[row * width + column];
  }
  return sum + values[y * width + x] * 1e-3; // where all around a single peak are equal, the peak itself
}

const within = (value, most) => Math.max(0, Math.min(most, value));

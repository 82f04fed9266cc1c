/** Colours of labels: a map of labels as a picture, and the same colours for the list beside it. */

import { bytesOf } from "./heatmap.js";

const COLOURS = ["#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#f0e442", "#8c6d31", "#9467bd", "#17becf", "#b5cf6b", "#8c8c8c"]; // no red, no blue: these mean for and against
const BACKGROUND = [128, 128, 128, 90];

export const colourOf = (index) => COLOURS[index % COLOURS.length];

/** The map of an answer as a bitmap in colours, and a way to read it: { bitmap, at(x, y) } with x and y as shares. */
export async function readLabels({ data, width, height }) {
  const grey = await createImageBitmap(new Blob([bytesOf(data)], { type: "image/png" }));
  const pen = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  pen.drawImage(grey, 0, 0);
  const pixels = pen.getImageData(0, 0, width, height);
  const values = Uint8Array.from({ length: width * height }, (_, place) => pixels.data[4 * place]);
  values.forEach((value, place) => pixels.data.set(value ? [...channels(colourOf(value - 1)), 255] : BACKGROUND, 4 * place));
  const at = (x, y) => values[Math.min(height - 1, Math.floor(y * height)) * width + Math.min(width - 1, Math.floor(x * width))];
  return { bitmap: await createImageBitmap(pixels), at };
}

function channels(colour) {
  return [1, 3, 5].map((place) => parseInt(colour.slice(place, place + 2), 16));
}

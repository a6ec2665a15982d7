/** Exemplars: a picture, of which a part may be chosen and turned. */

import { newId } from "./doc.js";
import { context2d } from "./mask.js";
import { canvasBlob, stem } from "./pictures.js";

/** @typedef {import("./pictures.js").Picture} Picture */

/**
 * @typedef {object} Exemplar
 * @property {string} id
 * @property {Picture} picture
 * @property {number} turns quarter turns, clockwise
 * @property {{x: number, y: number, width: number, height: number} | null} crop in the turned picture, 0 to 1; null: all
 */

/**
 * @param {Picture} picture
 * @returns {Exemplar}
 */
export function wholeExemplar(picture) {
  return { id: newId(), picture, turns: 0, crop: null };
}

/**
 * @param {Exemplar} exemplar
 * @returns {{width: number, height: number}} of the turned picture, before it is cropped
 */
export function turnedSize({ picture, turns }) {
  const { width, height } = picture;
  return turns % 2 ? { width: height, height: width } : { width, height };
}

/**
 * @param {Exemplar} exemplar
 * @param {number} side of the result, at most
 * @returns {HTMLCanvasElement}
 */
export function exemplarCanvas(exemplar, side) {
  const size = turnedSize(exemplar);
  const crop = exemplar.crop ?? { x: 0, y: 0, width: 1, height: 1 };
  const width = crop.width * size.width;
  const height = crop.height * size.height;
  const scale = Math.min(1, side / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = context2d(canvas);
  context.imageSmoothingQuality = "high";
  context.scale(scale, scale);
  context.translate(size.width / 2 - crop.x * size.width, size.height / 2 - crop.y * size.height);
  context.rotate((exemplar.turns * Math.PI) / 2);
  context.drawImage(exemplar.picture.bitmap, -exemplar.picture.width / 2, -exemplar.picture.height / 2);
  return canvas;
}

/**
 * @param {Exemplar} exemplar
 * @returns {Promise<{blob: Blob, name: string}>} the file as it came, or the part of it that was chosen
 */
export async function exemplarFile(exemplar) {
  const { picture, turns, crop } = exemplar;
  if (!turns && !crop) return { blob: picture.blob, name: picture.name };
  return { blob: await canvasBlob(exemplarCanvas(exemplar, 4096)), name: `${stem(picture.name)}-part.png` };
}

/** Pictures as the browser holds them: the file as it came, and its pixels, upright. */

import { newId } from "./doc.js";
import { LARGEST, context2d } from "./mask.js";
import { say } from "./words.js";

/**
 * @typedef {object} Picture
 * @property {string} id
 * @property {string} name of its file
 * @property {Blob} blob the file
 * @property {ImageBitmap} bitmap
 * @property {CanvasImageSource} display smaller where the picture is large
 * @property {number} width
 * @property {number} height
 */

/**
 * @param {Blob} blob a picture file
 * @param {string} name
 * @param {string} [id]
 * @returns {Promise<Picture>}
 */
export async function readPicture(blob, name, id = newId()) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob); // upright: browsers heed the EXIF orientation here
  } catch {
    throw new Error(say("cannotShow", { name }));
  }
  const { width, height } = bitmap;
  return { id, name, blob, bitmap, display: reduced(bitmap, LARGEST), width, height };
}

/**
 * @param {ImageBitmap} bitmap
 * @param {number} side at most
 * @returns {CanvasImageSource & {width: number, height: number}}
 */
function reduced(bitmap, side) {
  const scale = side / Math.max(bitmap.width, bitmap.height);
  if (scale >= 1) return bitmap;
  return drawn(bitmap, bitmap.width * scale, bitmap.height * scale);
}

/**
 * @param {CanvasImageSource} picture
 * @param {number} width
 * @param {number} height
 * @returns {HTMLCanvasElement}
 */
export function drawn(picture, width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width));
  canvas.height = Math.max(1, Math.round(height));
  const context = context2d(canvas);
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  return canvas;
}

/**
 * @param {CanvasImageSource} picture
 * @param {number} width
 * @param {number} height
 * @returns {HTMLCanvasElement} without transparency
 */
export function onWhite(picture, width, height) {
  const canvas = drawn(picture, width, height);
  const context = context2d(canvas);
  context.globalCompositeOperation = "destination-over";
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  return canvas;
}

/**
 * Refuse a picture that cannot lie over the photograph.
 *
 * @param {Picture} picture
 * @param {Picture} source
 * @param {string} key of what is said
 */
export function checkShape(picture, source, key) {
  if (Math.abs(picture.width / picture.height / (source.width / source.height) - 1) <= 0.02) return;
  const [given, wanted] = [picture, source].map((one) => `${one.width}×${one.height}`);
  throw new Error(say(key, { given, source: wanted }));
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {string} [type]
 * @returns {Promise<Blob>}
 */
export function canvasBlob(canvas, type = "image/png") {
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error(say("cannotMake")))), type, 0.85);
  });
}

/**
 * @param {Blob} blob
 * @param {number} side at most
 * @param {[number, number, number, number][]} boxes what it should show; all if there is none
 * @returns {Promise<Blob>} a small JPEG
 */
export async function thumbnail(blob, side, boxes) {
  const whole = await createImageBitmap(blob);
  const { width, height } = whole;
  const left = Math.max(0, Math.min(width - 1, ...boxes.map((box) => box[0])));
  const top = Math.max(0, Math.min(height - 1, ...boxes.map((box) => box[1])));
  const right = Math.min(width, boxes.length ? Math.max(left + 1, ...boxes.map((box) => box[2])) : width);
  const bottom = Math.min(height, boxes.length ? Math.max(top + 1, ...boxes.map((box) => box[3])) : height);
  const part = boxes.length ? [left, top, right - left, bottom - top] : [0, 0, width, height];
  const bitmap = await createImageBitmap(whole, part[0], part[1], part[2], part[3]);
  whole.close();
  const scale = Math.min(1, side / Math.max(bitmap.width, bitmap.height));
  const small = await canvasBlob(drawn(bitmap, bitmap.width * scale, bitmap.height * scale), "image/jpeg");
  bitmap.close();
  return small;
}

/**
 * @param {Blob} blob
 * @param {string} name
 */
export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/**
 * @param {string} name of a file
 * @returns {string} without its suffix
 */
export function stem(name) {
  return name.replace(/\.[^.]*$/, "");
}

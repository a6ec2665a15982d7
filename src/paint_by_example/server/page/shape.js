/** What is done to the shape of a mask: growing, shrinking, inverting, and how much of it is thin. */

import { flat, fromFlat } from "./mask.js";

/** @typedef {import("./mask.js").Mask} Mask */

const FAR = 1e9;

/**
 * Squared Euclidean distances, exact: columns first, then along each row the lower envelope of parabolas
 * (Felzenszwalb and Huttenlocher, "Distance Transforms of Sampled Functions", 2012).
 *
 * @param {Uint8Array} inside width * height; above 127 counts as inside
 * @param {number} width
 * @param {number} height
 * @returns {Float32Array} of each pixel to the nearest one inside
 */
export function squaredDistances(inside, width, height) {
  const result = new Float32Array(width * height);
  for (let x = 0; x < width; x++) {
    let distance = FAR;
    for (let y = 0; y < height; y++) {
      distance = inside[y * width + x] > 127 ? 0 : distance + 1;
      result[y * width + x] = distance;
    }
    distance = FAR;
    for (let y = height - 1; y >= 0; y--) {
      distance = inside[y * width + x] > 127 ? 0 : distance + 1;
      const nearest = Math.min(distance, result[y * width + x]);
      result[y * width + x] = nearest >= FAR ? FAR : nearest * nearest;
    }
  }
  const row = new Float32Array(width);
  const at = new Int32Array(width);
  const from = new Float32Array(width + 1);
  for (let y = 0; y < height; y++) {
    row.set(result.subarray(y * width, (y + 1) * width));
    let last = -1;
    for (let x = 0; x < width; x++) {
      if (row[x] >= FAR) continue;
      let crossing = -Infinity;
      while (last >= 0) {
        const other = at[last];
        crossing = (row[x] + x * x - row[other] - other * other) / (2 * (x - other));
        if (crossing > from[last]) break;
        last--;
        crossing = -Infinity;
      }
      last++;
      at[last] = x;
      from[last] = crossing;
    }
    if (last < 0) continue;
    from[last + 1] = Infinity;
    for (let x = 0, piece = 0; x < width; x++) {
      while (from[piece + 1] < x) piece++;
      result[y * width + x] = (x - at[piece]) ** 2 + row[at[piece]];
    }
  }
  return result;
}

/** @param {Uint8Array} pixels */
const opposite = (pixels) => pixels.map((value) => 255 - value);

/**
 * @param {Uint8Array} pixels
 * @param {number} width
 * @param {number} height
 * @param {number} radius
 * @returns {Uint8Array} with all within the radius
 */
function grownPixels(pixels, width, height, radius) {
  const limit = radius * radius;
  return Uint8Array.from(squaredDistances(pixels, width, height), (distance) => (distance <= limit ? 255 : 0));
}

/**
 * @param {Mask} mask
 * @param {number} radius in the mask's pixels; below 0 the mask shrinks
 * @returns {Mask}
 */
export function grown(mask, radius) {
  const { width, height } = mask;
  const all = flat(mask);
  if (radius >= 0) return fromFlat(mask, grownPixels(all, width, height, radius));
  return fromFlat(mask, opposite(grownPixels(opposite(all), width, height, -radius)));
}

/**
 * @param {Mask} mask
 * @returns {Mask} what it left out
 */
export function inverted(mask) {
  return fromFlat(mask, opposite(flat(mask)));
}

/**
 * @param {Uint8Array} pixels width * height
 * @param {number} width
 * @param {number} height
 * @param {number} thickness pixels
 * @returns {number} how much of the mask is thinner than that, 0 to 1: what vanishes when it shrinks and grows again
 */
export function thinShare(pixels, width, height, thickness) {
  const radius = thickness / 2;
  const shrunk = opposite(grownPixels(opposite(pixels), width, height, radius));
  const opened = grownPixels(shrunk, width, height, radius * 1.45); // corners count as thick
  let [all, lost] = [0, 0];
  for (let at = 0; at < pixels.length; at++) {
    if (pixels[at] < 128) continue;
    all++;
    if (opened[at] < 128) lost++;
  }
  return all ? lost / all : 0;
}

/** A word where the mask is too thin for the model to paint a shape into it. */

import { byId } from "./dom.js";
import { bounds, pooled } from "./mask.js";
import { thinShare } from "./shape.js";
import { say } from "./words.js";

const SURROUNDINGS = 1.75; // the square that is painted: so many times the mask's bounds (crops.CONTEXT)
const SMALLEST = 128; // and at least so many pixels (crops.MINIMUM_CROP)
const CELL = 8; // pixels of that square, at the model's size, to a cell of its latents: benchmarks/thin_strokes.py
const LOOK = 320; // what is masked is looked at in at most so many pixels a side
const SHARE = 0.12;
const PAUSE_MS = 250;

/**
 * @param {import("./mask.js").Mask} mask
 * @param {{width: number, height: number}} source
 * @param {number} imageSize side of the square that the model paints
 * @returns {number | null} pixels of the source that a stroke should have; null: it is thick enough
 */
export function thinnest(mask, source, imageSize) {
  const box = bounds(mask);
  if (!box) return null;
  const scale = source.width / mask.width;
  const longest = Math.max(box.right - box.left, box.bottom - box.top) * scale;
  const side = Math.min(Math.max(longest * SURROUNDINGS, SMALLEST), Math.max(source.width, source.height));
  const least = (CELL * side) / imageSize;
  const factor = Math.ceil(Math.max(box.right - box.left, box.bottom - box.top) / LOOK);
  const { width, height, pixels } = pooled(mask, box, factor);
  return thinShare(pixels, width, height, least / scale / factor) > SHARE ? Math.ceil(least) : null;
}

/**
 * @param {import("./doc.js").Editing} editing
 * @param {() => import("./api.js").Model} model
 */
export function warnOfThinStrokes(editing, model) {
  const place = byId("warning");
  let timer = 0;
  /** @type {unknown} */
  let looked = null;
  editing.addEventListener("change", () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      const { doc } = editing;
      const region = doc.regions.find((one) => one.id === doc.active);
      const size = model().image_size;
      const key = `${size}`;
      if (looked === region?.mask && place.dataset.size === key) return;
      looked = region?.mask ?? null;
      place.dataset.size = key;
      const pixels = region && doc.source && size ? thinnest(region.mask, doc.source, size) : null;
      place.hidden = pixels === null;
      if (pixels !== null) place.querySelector("span")?.replaceChildren(say("thin", { pixels }));
    }, PAUSE_MS);
  });
}

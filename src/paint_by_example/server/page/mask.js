/**
 * Masks at a limited size, in tiles that never change: a new mask shares the tiles that stayed, so that undo costs what
 * was painted and a stroke on a 4-K picture reads back a few tiles.
 */

export const TILE = 256;
export const LARGEST = 2048;

/**
 * @typedef {object} Mask
 * @property {number} width
 * @property {number} height
 * @property {(Uint8Array | null)[]} tiles row by row, 255 = repaint; null: nothing in it
 */

/** @typedef {{left: number, top: number, right: number, bottom: number}} Rect */

/**
 * @param {number} width of the picture
 * @param {number} height of the picture
 * @returns {Mask} that selects nothing, of the picture's size or a smaller one
 */
export function emptyMask(width, height) {
  const scale = Math.min(1, LARGEST / Math.max(width, height));
  const size = { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) };
  return { ...size, tiles: new Array(columns(size) * rows(size)).fill(null) };
}

/** @param {{width: number}} mask */
const columns = (mask) => Math.ceil(mask.width / TILE);
/** @param {{height: number}} mask */
const rows = (mask) => Math.ceil(mask.height / TILE);

/**
 * @param {Mask} mask
 * @param {number} index
 */
function tileRect(mask, index) {
  const left = (index % columns(mask)) * TILE;
  const top = Math.floor(index / columns(mask)) * TILE;
  return { left, top, width: Math.min(TILE, mask.width - left), height: Math.min(TILE, mask.height - top) };
}

/**
 * @param {Mask} mask
 * @returns {boolean} whether it selects nothing
 */
export function isEmpty(mask) {
  return mask.tiles.every((tile) => tile === null);
}

/**
 * @param {Mask} one
 * @param {Mask} other
 * @returns {boolean} whether they select the same
 */
export function equal(one, other) {
  if (one === other) return true;
  if (one.width !== other.width || one.height !== other.height) return false;
  return one.tiles.every((tile, index) => {
    const match = other.tiles[index];
    return tile === match || Boolean(tile && match && tile.every((value, at) => value === match[at]));
  });
}

/**
 * @param {Mask} mask
 * @param {CanvasRenderingContext2D} context of a canvas of the mask's size
 * @param {Rect} [rect] what may have changed; all if left out
 * @returns {Mask} what the canvas shows now
 */
export function capture(mask, context, rect) {
  const tiles = mask.tiles.slice();
  for (let index = 0; index < tiles.length; index++) {
    const { left, top, width, height } = tileRect(mask, index);
    const apart =
      rect && (rect.right < left || rect.left > left + width || rect.bottom < top || rect.top > top + height);
    if (apart) continue;
    const pixels = context.getImageData(left, top, width, height).data;
    const tile = new Uint8Array(width * height);
    let any = 0;
    for (let at = 0; at < tile.length; at++) any |= tile[at] = pixels[at * 4 + 3];
    tiles[index] = any ? tile : null;
  }
  return { ...mask, tiles };
}

/**
 * @param {Mask} mask to show
 * @param {Mask | null} shown what the canvas shows, if anything
 * @param {CanvasRenderingContext2D} context
 * @param {string} colour "#rrggbb"
 */
export function show(mask, shown, context, colour) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  mask.tiles.forEach((tile, index) => {
    if (shown && shown.tiles[index] === tile) return;
    const { left, top, width, height } = tileRect(mask, index);
    if (!tile) {
      context.clearRect(left, top, width, height);
      return;
    }
    const image = context.createImageData(width, height);
    for (let at = 0; at < tile.length; at++) {
      image.data[at * 4] = red;
      image.data[at * 4 + 1] = green;
      image.data[at * 4 + 2] = blue;
      image.data[at * 4 + 3] = tile[at];
    }
    context.putImageData(image, left, top);
  });
}

/**
 * @param {Mask} mask
 * @returns {Uint8Array} width * height, 255 = repaint
 */
export function flat(mask) {
  const all = new Uint8Array(mask.width * mask.height);
  mask.tiles.forEach((tile, index) => {
    if (!tile) return;
    const { left, top, width, height } = tileRect(mask, index);
    for (let y = 0; y < height; y++) {
      all.set(tile.subarray(y * width, (y + 1) * width), (top + y) * mask.width + left);
    }
  });
  return all;
}

/**
 * @param {Mask} mask
 * @param {Rect} box around all of it
 * @param {number} factor whole
 * @returns {{width: number, height: number, pixels: Uint8Array}} the box, smaller, with a pixel of nothing around it;
 *   each pixel is the most of its square: no stroke is too thin to be left
 */
export function pooled(mask, box, factor) {
  const width = Math.ceil((box.right - box.left) / factor) + 2;
  const height = Math.ceil((box.bottom - box.top) / factor) + 2;
  const pixels = new Uint8Array(width * height);
  mask.tiles.forEach((tile, index) => {
    if (!tile) return;
    const rect = tileRect(mask, index);
    for (let y = 0, at = 0; y < rect.height; y++) {
      const start = (Math.floor((rect.top + y - box.top) / factor) + 1) * width;
      for (let x = 0; x < rect.width; x++, at++) {
        if (tile[at] < 128) continue; // as the box has it
        pixels[start + Math.floor((rect.left + x - box.left) / factor) + 1] = 255;
      }
    }
  });
  return { width, height, pixels };
}

/**
 * @param {Mask} mask whose size is taken
 * @param {Uint8Array} all width * height
 * @returns {Mask}
 */
export function fromFlat(mask, all) {
  const tiles = mask.tiles.map((_, index) => {
    const { left, top, width, height } = tileRect(mask, index);
    const tile = new Uint8Array(width * height);
    for (let y = 0; y < height; y++) {
      const start = (top + y) * mask.width + left;
      tile.set(all.subarray(start, start + width), y * width);
    }
    return tile.some((value) => value > 0) ? tile : null;
  });
  return { ...mask, tiles };
}

/**
 * @param {Mask} mask
 * @returns {Rect | null} the smallest rectangle around it, right and bottom exclusive, in the mask's pixels
 */
export function bounds(mask) {
  let [left, top, right, bottom] = [Infinity, Infinity, -1, -1];
  mask.tiles.forEach((tile, index) => {
    if (!tile) return;
    const rect = tileRect(mask, index);
    for (let y = 0; y < rect.height; y++) {
      for (let x = 0; x < rect.width; x++) {
        if (tile[y * rect.width + x] < 128) continue;
        left = Math.min(left, rect.left + x);
        right = Math.max(right, rect.left + x + 1);
        top = Math.min(top, rect.top + y);
        bottom = Math.max(bottom, rect.top + y + 1);
      }
    }
  });
  return right < 0 ? null : { left, top, right, bottom };
}

/**
 * @param {Mask} mask
 * @param {number} width of the canvas
 * @param {number} height
 * @param {string} [background] none if left out
 * @returns {HTMLCanvasElement} the mask in white
 */
export function whiteCanvas(mask, width, height, background) {
  const small = document.createElement("canvas");
  small.width = mask.width;
  small.height = mask.height;
  show(mask, null, context2d(small), "#ffffff");
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = context2d(canvas);
  if (background) {
    context.fillStyle = background;
    context.fillRect(0, 0, width, height);
  }
  context.drawImage(small, 0, 0, width, height);
  return canvas;
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {boolean} [read] it is read often
 * @returns {CanvasRenderingContext2D}
 */
export function context2d(canvas, read = false) {
  const context = canvas.getContext("2d", { willReadFrequently: read });
  if (!context) throw new Error("this browser gives no canvas");
  return context;
}

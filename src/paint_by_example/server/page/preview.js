/** What an edit under way looks like: the painted squares, inside their masks. */

import { context2d, isEmpty, whiteCanvas } from "./mask.js";

/** @typedef {import("./api.js").Preview} PreviewEvent */

/** A canvas of the source's shape with what was painted so far, of the first candidate. */
export class Preview {
  /** @param {import("./doc.js").Doc} doc that is being painted */
  constructor(doc) {
    if (!doc.source) throw new Error("nothing to paint into");
    this.masks = doc.regions.map((region) => region.mask).filter((mask) => !isEmpty(mask));
    const { width, height } = this.masks[0];
    this.scale = width / doc.source.width;
    this.canvas = document.createElement("canvas");
    this.canvas.width = width;
    this.canvas.height = height;
    /** @type {Map<number, HTMLCanvasElement>} */
    this.painted = new Map();
  }

  /** @param {PreviewEvent} preview */
  async paint({ region, box, pictures }) {
    const image = new Image();
    image.src = pictures[0];
    await image.decode();
    const [left, top, right, bottom] = box.map((side) => side * this.scale);
    const { width, height } = this.canvas;
    const piece = whiteCanvas(this.masks[region], width, height);
    const context = context2d(piece);
    context.globalCompositeOperation = "source-in";
    context.drawImage(image, left, top, right - left, bottom - top);
    this.painted.set(region, piece);
    const all = context2d(this.canvas);
    all.clearRect(0, 0, width, height);
    for (const one of this.painted.values()) all.drawImage(one, 0, 0);
  }
}

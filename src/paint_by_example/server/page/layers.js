/** The masks as canvases, one for each region, kept like the document. */

import { COLOURS } from "./doc.js";
import { context2d, show } from "./mask.js";

/** @typedef {import("./doc.js").Doc} Doc */
/** @typedef {import("./doc.js").Region} Region */
/** @typedef {{canvas: HTMLCanvasElement, context: CanvasRenderingContext2D, mask: import("./mask.js").Mask | null}} Layer */

/** One canvas for each region of a document. */
export class Layers {
  constructor() {
    /** @type {Map<string, Layer>} */
    this.layers = new Map();
  }

  /** @param {Doc} doc to be shown from now on */
  update(doc) {
    for (const id of this.layers.keys()) {
      if (!doc.regions.some((region) => region.id === id)) this.layers.delete(id);
    }
    for (const region of doc.regions) this.#refresh(this.of(region), region);
  }

  /**
   * @param {Region} region
   * @returns {Layer}
   */
  of(region) {
    const { width, height } = region.mask;
    let layer = this.layers.get(region.id);
    if (!layer || layer.canvas.width !== width || layer.canvas.height !== height) {
      const canvas = document.createElement("canvas");
      canvas.width = width;
      canvas.height = height;
      layer = { canvas, context: context2d(canvas, true), mask: null };
      this.layers.set(region.id, layer);
    }
    return layer;
  }

  /**
   * Take back what was drawn since the region's mask was set.
   *
   * @param {Region} region
   */
  revert(region) {
    const layer = this.of(region);
    layer.mask = null;
    this.#refresh(layer, region);
  }

  /**
   * @param {Layer} layer
   * @param {Region} region
   */
  #refresh(layer, region) {
    if (layer.mask === region.mask) return;
    show(region.mask, layer.mask, layer.context, COLOURS[region.colour]);
    layer.mask = region.mask;
  }
}

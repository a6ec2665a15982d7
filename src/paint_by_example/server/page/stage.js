/** The stage: the picture, what is drawn into it, and results, as they are shown. */

import { COLOURS, activeRegion, withRegion } from "./doc.js";
import { Layers } from "./layers.js";
import { capture, context2d } from "./mask.js";
import { View } from "./view.js";

/**
 * @typedef {import("./doc.js").Editing} Editing
 * @typedef {import("./pictures.js").Picture} Picture
 * @typedef {import("./tools.js").Point} Point
 * @typedef {import("./tools.js").Outline} Outline
 */

/** What is shown: the source with the masks, or a result beside what it was made from. */
/** @typedef {{result: Picture, before: Picture} | null} Shown */

/** Draws at most once a frame. Sends "shown" when it shows something else, "drawn" after a frame. */
export class Stage extends EventTarget {
  /**
   * @param {HTMLElement} frame
   * @param {Editing} editing
   */
  constructor(frame, editing) {
    super();
    this.frame = frame;
    this.editing = editing;
    this.view = new View();
    this.layers = new Layers();
    this.picture = /** @type {HTMLCanvasElement} */ (frame.querySelector("#picture"));
    this.overlay = /** @type {HTMLCanvasElement} */ (frame.querySelector("#overlay"));
    /** @type {Shown} */
    this.shown = null;
    /** @type {number | null} where the slider between before and after stands, 0 to 1 */
    this.split = null;
    this.holding = false;
    this.masks = true;
    /** @type {HTMLCanvasElement | null} what an edit under way looks like, of the source's shape */
    this.preview = null;
    /** @type {HTMLCanvasElement | null} the structure of what stands in the holes, of the source's shape */
    this.map = null;
    /** @type {Outline | null} */
    this.outline = null;
    /** @type {{point: Point, size: number, cross: boolean} | null} */
    this.cursor = null;
    this.waiting = 0;
    /** @type {Picture | null} */
    this.source = null;
    /** @type {import("./mask.js").Mask[]} */
    this.drawn = [];
    editing.addEventListener("change", () => this.update());
    new ResizeObserver(() => this.resize()).observe(frame);
    this.resize();
  }

  /** The document has changed. */
  update() {
    const { doc } = this.editing;
    this.layers.update(doc);
    if (doc.source !== this.source) {
      const [before, now] = [this.source, doc.source];
      this.source = now;
      this.preview = null;
      this.show(null);
      if (now && (!before || before.width !== now.width || before.height !== now.height)) this.fit();
    }
    const masks = doc.regions.map((region) => region.mask);
    const same = masks.length === this.drawn.length && masks.every((mask, index) => mask === this.drawn[index]);
    if (!same && this.drawn.length) {
      this.preview = null;
      if (this.shown) this.show(null); // whoever changes a mask wants to see it
    }
    this.drawn = masks;
    if (doc.source && this.frame.querySelector(".welcome :focus")) this.frame.focus(); // what was in focus goes
    this.frame.classList.toggle("empty", !doc.source);
    this.draw();
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.frame;
    const ratio = window.devicePixelRatio || 1;
    for (const canvas of [this.picture, this.overlay]) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    if (this.view.fitted) this.fit();
    this.draw();
  }

  /** @returns {Picture | null} */
  current() {
    return this.shown?.result ?? this.editing.doc.source;
  }

  fit() {
    const picture = this.current();
    if (picture) this.view.fit(picture, { width: this.frame.clientWidth, height: this.frame.clientHeight });
    this.draw();
  }

  /** @param {Shown} shown */
  show(shown) {
    const before = this.current();
    this.shown = shown;
    if (!shown) this.split = null;
    const now = this.current();
    if (before && now && (before.width !== now.width || before.height !== now.height)) this.fit();
    this.dispatchEvent(new Event("shown"));
    this.draw();
  }

  /** @returns {import("./tools.js").Surface | null} where strokes go */
  surface() {
    const { doc } = this.editing;
    const region = activeRegion(doc);
    if (!region || !doc.source) return null;
    const { context } = this.layers.of(region);
    return { context, scale: region.mask.width / doc.source.width, colour: COLOURS[region.colour] };
  }

  /**
   * What was drawn into the active region's canvas becomes part of the document.
   *
   * @param {string} label
   * @param {import("./mask.js").Rect} [rect]
   */
  commit(label, rect) {
    const { doc } = this.editing;
    const region = activeRegion(doc);
    if (!region) return;
    const layer = this.layers.of(region);
    const mask = capture(region.mask, layer.context, rect);
    layer.mask = mask;
    this.editing.change(label, withRegion(doc, region.id, { mask }));
  }

  /** Forget what was drawn since the last commit. */
  revert() {
    const region = activeRegion(this.editing.doc);
    if (region) this.layers.revert(region);
    this.draw();
  }

  draw() {
    this.waiting ||= requestAnimationFrame(() => {
      this.waiting = 0;
      this.#drawPicture();
      this.#drawOverlay();
      this.dispatchEvent(new Event("drawn"));
    });
  }

  /**
   * @param {HTMLCanvasElement} canvas
   * @returns {CanvasRenderingContext2D} cleared, in CSS pixels
   */
  #cleared(canvas) {
    const context = context2d(canvas);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    const ratio = window.devicePixelRatio || 1;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    return context;
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {CanvasImageSource} image
   * @param {{width: number, height: number}} size that it stands for
   */
  #place(context, image, size) {
    context.drawImage(image, this.view.x, this.view.y, size.width * this.view.scale, size.height * this.view.scale);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Picture} picture
   */
  #placePicture(context, picture) {
    const small = /** @type {{width: number}} */ (/** @type {unknown} */ (picture.display)).width / picture.width;
    const enough = small >= this.view.scale * (window.devicePixelRatio || 1);
    context.imageSmoothingEnabled = this.view.scale < 6;
    this.#place(context, enough ? picture.display : picture.bitmap, picture);
  }

  #drawPicture() {
    const context = this.#cleared(this.picture);
    const { source } = this.editing.doc;
    if (this.shown) {
      const { result, before } = this.shown;
      this.#placePicture(context, this.holding ? before : result);
      if (this.split !== null && !this.holding) {
        const { x, y, scale } = this.view;
        context.save();
        context.beginPath();
        context.rect(x, y, result.width * scale * this.split, result.height * scale);
        context.clip();
        this.#placePicture(context, before);
        context.restore();
      }
    } else if (source) {
      this.#placePicture(context, source);
      if (this.map && !this.holding) this.#place(context, this.map, source);
      if (this.preview && !this.holding) this.#place(context, this.preview, source);
    }
  }

  #drawOverlay() {
    const context = this.#cleared(this.overlay);
    const { doc } = this.editing;
    if (!doc.source) return;
    if (this.shown && this.split !== null && !this.holding) this.#drawSplit(context, this.shown.result);
    if (!this.shown && this.masks && !this.holding && !this.preview) {
      const seen = this.map ? 0.4 : 1; // of a mask, so that the map shows through
      for (const region of doc.regions) {
        context.globalAlpha = (region.id === doc.active ? 0.55 : 0.35) * seen;
        this.#place(context, this.layers.of(region).canvas, doc.source);
      }
      context.globalAlpha = 1;
    }
    if (this.outline) {
      this.outline.trace(context, (point) => this.view.toScreen(point));
      context.fillStyle = "rgb(255 255 255 / 0.25)";
      context.fill("evenodd");
      twice(context, 1.5);
    }
    if (this.cursor) this.#drawCursor(context, this.cursor);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Picture} picture
   */
  #drawSplit(context, picture) {
    const { x, y, scale } = this.view;
    const at = x + picture.width * scale * (this.split ?? 0);
    context.beginPath();
    context.moveTo(at, y);
    context.lineTo(at, y + picture.height * scale);
    twice(context, 2);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {{point: Point, size: number, cross: boolean}} cursor
   */
  #drawCursor(context, { point, size, cross }) {
    const { x, y } = this.view.toScreen(point);
    const radius = (size / 2) * this.view.scale;
    context.beginPath();
    if (size) context.arc(x, y, Math.max(1, radius), 0, Math.PI * 2);
    if (cross) {
      context.moveTo(x - 9, y);
      context.lineTo(x + 9, y);
      context.moveTo(x, y - 9);
      context.lineTo(x, y + 9);
    }
    twice(context, 1.25);
  }
}

/**
 * Stroke the path so that it shows on light and on dark.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {number} width
 */
function twice(context, width) {
  context.lineWidth = width + 1.5;
  context.strokeStyle = "rgb(0 0 0 / 0.55)";
  context.stroke();
  context.lineWidth = width;
  context.strokeStyle = "#fff";
  context.stroke();
}

/** Mouse, pen, fingers and arrow keys on the stage: they draw, zoom and pan. */

import { Outline, Stroke } from "./tools.js";

/**
 * @typedef {import("./stage.js").Stage} Stage
 * @typedef {import("./tools.js").ToolName} ToolName
 * @typedef {import("./tools.js").Point} Point
 */

const SMALLEST = 2;
const NEAR = 16; // pixels of the screen: how close to its first corner a polygon closes
const STILL = 6; // pixels of the screen that a finger may move and still not draw: a second one may follow
const ERASER_BUTTON = 32; // of a pen, in PointerEvent.buttons

/** Sends "tool" and "size" when they become others. */
export class Pointer extends EventTarget {
  /** @param {Stage} stage */
  constructor(stage) {
    super();
    this.stage = stage;
    /** @type {ToolName} */
    this.tool = "brush";
    this.size = 40;
    this.most = 1000;
    this.space = false;
    /** @type {Map<number, Point>} on the screen */
    this.touching = new Map();
    /** @type {number | null} of a pen on the surface: the hand that holds it draws nothing */
    this.pen = null;
    /** @type {Point | null} where a finger was put down that has not moved yet */
    this.resting = null;
    /** @type {Stroke | null} */
    this.stroke = null;
    this.erase = false;
    /** @type {"draw" | "pan" | "pinch" | null} */
    this.doing = null;
    const surface = stage.overlay;
    surface.addEventListener("pointerdown", (event) => this.#down(event));
    surface.addEventListener("pointermove", (event) => this.#move(event));
    surface.addEventListener("pointerup", (event) => this.#up(event));
    surface.addEventListener("pointercancel", (event) => this.#up(event, true));
    surface.addEventListener("pointerleave", () => this.#leave());
    surface.addEventListener("dblclick", () => this.close());
    surface.addEventListener("contextmenu", (event) => event.preventDefault());
    surface.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
  }

  /** @param {ToolName} tool */
  choose(tool) {
    this.cancel();
    this.tool = tool;
    this.stage.cursor = null;
    this.stage.overlay.dataset.tool = tool;
    this.stage.draw();
    this.dispatchEvent(new Event("tool"));
  }

  /** @param {number} size of the brush, pixels of the picture */
  resize(size) {
    this.size = Math.round(Math.min(this.most, Math.max(SMALLEST, size)));
    if (this.stage.cursor?.size) this.stage.cursor.size = this.size;
    this.stage.draw();
    this.dispatchEvent(new Event("size"));
  }

  /** @param {{width: number, height: number}} picture that the brush's size should suit */
  suit({ width, height }) {
    const most = Math.max(width, height);
    if (most === this.most) return;
    this.most = most;
    this.resize(most / 14);
  }

  /** Give up what is being drawn. */
  cancel() {
    if (this.stroke) this.stage.revert();
    this.stroke = null;
    this.stage.outline = null;
    if (this.doing === "draw") this.doing = null;
    this.stage.draw();
  }

  /**
   * Begin to draw, or set a polygon's corner.
   *
   * @param {Point} point in the picture
   * @param {boolean} erase
   * @param {number} [pressure] 0 to 1
   */
  press(point, erase, pressure = 1) {
    const { stage } = this;
    if (stage.shown) {
      stage.show(null);
      if (this.tool === "hand") return;
    }
    stage.preview = null;
    const surface = stage.surface();
    if (!surface || this.tool === "hand") return;
    this.erase = erase || this.tool === "eraser";
    if (this.tool === "brush" || this.tool === "eraser") {
      this.stroke = new Stroke(surface, this.erase);
      this.stroke.to(point, this.size * pressure);
    } else if (stage.outline && this.tool === "polygon") {
      stage.outline.to(point);
      const [start] = stage.outline.points;
      const near = Math.hypot(start.x - point.x, start.y - point.y) * stage.view.scale < NEAR;
      if (near && stage.outline.points.length > 2) this.close();
      else stage.outline.corner();
    } else {
      stage.outline = new Outline(this.tool, point);
    }
    stage.draw();
  }

  /**
   * @param {Point} point in the picture
   * @param {number} [pressure]
   */
  drag(point, pressure = 1) {
    this.stroke?.to(point, this.size * pressure);
    this.stage.outline?.to(point);
    this.stage.draw();
  }

  /** End what is being drawn; a polygon goes on until it is closed. */
  release() {
    if (this.stroke) {
      const { rect } = this.stroke;
      this.stroke = null;
      this.stage.commit(this.erase ? "erased" : "painted", rect);
    } else if (this.tool !== "polygon") {
      this.#fill();
    }
  }

  /** Close a polygon. */
  close() {
    if (this.tool === "polygon") this.#fill();
  }

  #fill() {
    const { stage } = this;
    const [outline, surface] = [stage.outline, stage.surface()];
    stage.outline = null;
    if (outline && surface && outline.corners().length > 2) {
      stage.commit(this.erase ? "erased" : "painted", outline.fill(surface, this.erase));
    }
    stage.draw();
  }

  /**
   * @param {PointerEvent | WheelEvent} event
   * @returns {Point} on the stage
   */
  #place(event) {
    const { left, top } = this.stage.overlay.getBoundingClientRect();
    return { x: event.clientX - left, y: event.clientY - top };
  }

  /** @param {PointerEvent} event */
  #down(event) {
    if (!this.stage.editing.doc.source) return;
    event.preventDefault();
    if (this.pen !== null) return;
    if (event.pointerType === "pen") this.#takeUpPen(event);
    this.stage.frame.focus({ preventScroll: true });
    this.stage.overlay.setPointerCapture(event.pointerId);
    const place = this.#place(event);
    this.touching.set(event.pointerId, place);
    if (this.touching.size === 2) {
      if (this.stroke || this.tool !== "polygon") this.cancel();
      this.resting = null;
      this.doing = "pinch";
    } else if (this.touching.size === 1) {
      const pans = this.space || event.button === 1 || this.tool === "hand";
      this.doing = pans ? "pan" : "draw";
      if (pans) return;
      if (event.pointerType === "touch") {
        this.resting = place;
        return;
      }
      const erase = event.altKey || event.button === 2 || Boolean(event.buttons & ERASER_BUTTON);
      this.press(this.stage.view.toPicture(place), erase, pressure(event));
    }
  }

  /** @param {PointerEvent} event of a pen, which goes before fingers */
  #takeUpPen(event) {
    this.pen = event.pointerId;
    this.resting = null;
    this.touching.clear();
    if (this.stroke || this.tool !== "polygon") this.cancel();
  }

  /** A finger that rested begins to draw where it was put down. */
  #begin() {
    const { resting } = this;
    this.resting = null;
    if (resting) this.press(this.stage.view.toPicture(resting), false);
  }

  /** @param {PointerEvent} event */
  #move(event) {
    const { stage } = this;
    const place = this.#place(event);
    const before = this.touching.get(event.pointerId);
    const point = stage.view.toPicture(place);
    if (event.pointerType !== "touch") this.hover(point, false);
    if (!before) {
      if (stage.outline && event.pointerType !== "touch") this.drag(point); // a polygon between two corners
      return;
    }
    if (this.doing === "pinch") {
      const other = [...this.touching].find(([id]) => id !== event.pointerId)?.[1];
      if (other) {
        const apart = Math.hypot(before.x - other.x, before.y - other.y) || 1;
        const middle = { x: (place.x + other.x) / 2, y: (place.y + other.y) / 2 };
        stage.view.pan((place.x - before.x) / 2, (place.y - before.y) / 2);
        stage.view.zoom(Math.hypot(place.x - other.x, place.y - other.y) / apart, middle);
      }
    } else if (this.doing === "pan") {
      stage.view.pan(place.x - before.x, place.y - before.y);
    } else if (this.doing === "draw") {
      if (this.resting) {
        if (Math.hypot(place.x - this.resting.x, place.y - this.resting.y) < STILL) return;
        this.#begin();
      }
      const events = event.getCoalescedEvents?.() ?? [];
      for (const one of events.length ? events : [event]) {
        this.drag(stage.view.toPicture(this.#place(one)), pressure(one));
      }
    }
    this.touching.set(event.pointerId, place);
    stage.draw();
  }

  /**
   * @param {PointerEvent} event
   * @param {boolean} [cancelled]
   */
  #up(event, cancelled = false) {
    if (event.pointerId === this.pen) this.pen = null;
    if (!this.touching.delete(event.pointerId)) return;
    if (this.doing === "draw") {
      if (!cancelled) this.#begin();
      this.resting = null;
      if (cancelled) this.cancel();
      else this.release();
    }
    if (!this.touching.size) this.doing = null;
    if (event.pointerType === "touch") this.#leave();
  }

  #leave() {
    this.stage.cursor = null;
    this.stage.draw();
  }

  /**
   * @param {Point} point
   * @param {boolean} cross shown where there is no pointer of the system's
   */
  hover(point, cross) {
    const round = this.tool === "brush" || this.tool === "eraser";
    if (!round && !cross) return;
    this.stage.cursor = { point, size: round ? this.size : 0, cross };
    this.stage.draw();
  }

  /** @param {WheelEvent} event */
  #wheel(event) {
    if (!this.stage.editing.doc.source) return;
    event.preventDefault();
    const sizes = (this.tool === "brush" || this.tool === "eraser") && !event.ctrlKey && !event.metaKey;
    if (event.shiftKey) {
      this.stage.view.pan(-event.deltaX - event.deltaY, 0);
    } else if (sizes) {
      const factor = Math.exp(-event.deltaY / 500);
      this.resize(event.deltaY < 0 ? Math.max(this.size + 1, this.size * factor) : Math.min(this.size - 1, this.size * factor));
    } else {
      this.stage.view.zoom(Math.exp(-event.deltaY / (event.ctrlKey ? 120 : 400)), this.#place(event));
    }
    this.stage.draw();
  }
}

/**
 * @param {PointerEvent} event
 * @returns {number} share of the brush's size: a pen's pressure makes it smaller
 */
function pressure(event) {
  return event.pointerType === "pen" && event.pressure > 0 ? 0.35 + 0.65 * Math.min(1, event.pressure * 1.4) : 1;
}

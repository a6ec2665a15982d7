/** What draws into a mask: strokes of the brush, and outlines that are filled. */

/**
 * @typedef {object} Surface Where it is drawn.
 * @property {CanvasRenderingContext2D} context of the mask
 * @property {number} scale pixels of the mask per pixel of the picture
 * @property {string} colour
 */

/** @typedef {{x: number, y: number}} Point in pixels of the picture */
/** @typedef {import("./mask.js").Rect} Rect */

export const TOOLS = /** @type {const} */ (["brush", "eraser", "box", "lasso", "polygon", "hand"]);

/** @typedef {typeof TOOLS[number]} ToolName */

/** @returns {Rect} */
const nothing = () => ({ left: Infinity, top: Infinity, right: -Infinity, bottom: -Infinity });

/**
 * @param {Rect} rect is made larger
 * @param {Point} point
 * @param {number} scale
 * @param {number} margin
 */
function include(rect, point, scale, margin) {
  rect.left = Math.min(rect.left, Math.floor(point.x * scale - margin));
  rect.top = Math.min(rect.top, Math.floor(point.y * scale - margin));
  rect.right = Math.max(rect.right, Math.ceil(point.x * scale + margin));
  rect.bottom = Math.max(rect.bottom, Math.ceil(point.y * scale + margin));
}

/** A stroke of the brush or the eraser. */
export class Stroke {
  /**
   * @param {Surface} surface
   * @param {boolean} erase
   */
  constructor(surface, erase) {
    this.surface = surface;
    this.erase = erase;
    /** @type {Point | null} */
    this.last = null;
    this.rect = nothing();
  }

  /**
   * @param {Point} point
   * @param {number} size diameter, pixels of the picture
   */
  to(point, size) {
    const { context, scale, colour } = this.surface;
    const from = this.last ?? point;
    context.save();
    context.globalCompositeOperation = this.erase ? "destination-out" : "source-over";
    context.strokeStyle = colour;
    context.lineCap = "round";
    context.lineWidth = Math.max(1, size * scale);
    context.beginPath();
    context.moveTo(from.x * scale, from.y * scale);
    context.lineTo(point.x * scale + 0.01, point.y * scale); // a line of no length is not drawn
    context.stroke();
    context.restore();
    include(this.rect, from, scale, (size * scale) / 2 + 2);
    include(this.rect, point, scale, (size * scale) / 2 + 2);
    this.last = point;
  }
}

/** An outline that is filled at its end: a box by two corners, a lasso or a polygon. */
export class Outline {
  /**
   * @param {"box" | "lasso" | "polygon"} kind
   * @param {Point} start
   */
  constructor(kind, start) {
    this.kind = kind;
    /** @type {Point[]} */
    this.points = [start];
    this.end = start;
  }

  /** @param {Point} point where the pointer is now */
  to(point) {
    this.end = point;
    if (this.kind === "lasso") this.points.push(point);
  }

  /** Set a corner of a polygon where the pointer is. */
  corner() {
    this.points.push(this.end);
  }

  /** @returns {Point[]} */
  corners() {
    const [start] = this.points;
    if (this.kind !== "box") return [...this.points, this.end];
    return [start, { x: this.end.x, y: start.y }, this.end, { x: start.x, y: this.end.y }];
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {(point: Point) => Point} place
   */
  trace(context, place) {
    context.beginPath();
    this.corners().forEach((point, number) => {
      const { x, y } = place(point);
      if (number) context.lineTo(x, y);
      else context.moveTo(x, y);
    });
    context.closePath();
  }

  /**
   * @param {Surface} surface
   * @param {boolean} erase
   * @returns {Rect} what may have changed, in the mask's pixels
   */
  fill({ context, scale, colour }, erase) {
    const rect = nothing();
    for (const point of this.corners()) include(rect, point, scale, 2);
    context.save();
    context.globalCompositeOperation = erase ? "destination-out" : "source-over";
    context.fillStyle = colour;
    this.trace(context, ({ x, y }) => ({ x: x * scale, y: y * scale }));
    context.fill("evenodd");
    context.restore();
    return rect;
  }
}

/** The dialog in which an exemplar is turned and a part of it chosen. */

import { button, make, openDialog } from "./dom.js";
import { exemplarCanvas } from "./exemplar.js";
import { context2d } from "./mask.js";
import { say } from "./words.js";

/** @typedef {{x: number, y: number, width: number, height: number}} Crop */

const SIDE = 900;
const STEP = 0.02;
const WHOLE = { x: 0, y: 0, width: 1, height: 1 };

/**
 * @param {import("./doc.js").Editing} editing
 * @param {import("./exemplar.js").Exemplar} exemplar
 */
export function cropExemplar(editing, exemplar) {
  let { turns } = exemplar;
  /** @type {Crop} */
  let crop = exemplar.crop ?? WHOLE;
  const canvas = make("canvas", { tabIndex: 0, id: "crop", role: "application", "aria-label": say("cropCanvas") });
  let picture = exemplarCanvas({ ...exemplar, crop: null }, SIDE);

  function draw() {
    canvas.width = picture.width;
    canvas.height = picture.height;
    const context = context2d(canvas);
    context.drawImage(picture, 0, 0);
    const [x, y, width, height] = [
      crop.x * canvas.width,
      crop.y * canvas.height,
      crop.width * canvas.width,
      crop.height * canvas.height,
    ];
    context.fillStyle = "rgb(0 0 0 / 0.55)";
    context.beginPath();
    context.rect(0, 0, canvas.width, canvas.height);
    context.rect(x, y, width, height);
    context.fill("evenodd");
    context.lineWidth = Math.max(2, canvas.width / 250);
    context.strokeStyle = "#fff";
    context.strokeRect(x, y, width, height);
  }

  /** @param {number} by quarter turns */
  function turn(by) {
    turns = (turns + by + 4) % 4;
    const { x, y, width, height } = crop;
    crop =
      by > 0
        ? { x: 1 - y - height, y: x, width: height, height: width }
        : { x: y, y: 1 - x - width, width: height, height: width };
    picture = exemplarCanvas({ ...exemplar, crop: null, turns }, SIDE);
    draw();
  }

  /** @param {PointerEvent} event */
  function place(event) {
    const { left, top, width, height } = canvas.getBoundingClientRect();
    const inside = (/** @type {number} */ value) => Math.min(1, Math.max(0, value));
    return { x: inside((event.clientX - left) / width), y: inside((event.clientY - top) / height) };
  }

  /** @type {{x: number, y: number} | null} */
  let start = null;
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    start = place(event);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!start) return;
    const end = place(event);
    const [width, height] = [Math.abs(end.x - start.x), Math.abs(end.y - start.y)];
    if (width < STEP || height < STEP) return;
    crop = { x: Math.min(start.x, end.x), y: Math.min(start.y, end.y), width, height };
    draw();
  });
  canvas.addEventListener("pointerup", () => (start = null));
  canvas.addEventListener("pointercancel", () => (start = null));
  canvas.addEventListener("keydown", (event) => {
    const moves = /** @type {Record<string, [number, number]>} */ ({
      ArrowLeft: [-STEP, 0],
      ArrowRight: [STEP, 0],
      ArrowUp: [0, -STEP],
      ArrowDown: [0, STEP],
    });
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    crop = event.shiftKey ? resized(crop, move) : moved(crop, move);
    draw();
  });

  function apply() {
    const whole = crop.width > 0.995 && crop.height > 0.995;
    const changed = { ...exemplar, turns, crop: whole ? null : crop };
    const { doc } = editing;
    const exemplars = doc.exemplars.map((one) => (one.id === exemplar.id ? changed : one));
    editing.change("exemplarCropped", { ...doc, exemplars });
    dialog.close();
  }

  const dialog = openDialog(
    say("crop"),
    [make("p", { className: "quiet" }, say("cropHelp")), make("div", { className: "crop" }, canvas)],
    [
      button(null, () => turn(-1), { icon: "left", title: say("turnLeft") }),
      button(null, () => turn(1), { icon: "right", title: say("turnRight") }),
      button(say("wholePicture"), () => ((crop = WHOLE), draw())),
      button(say("cancel"), () => dialog.close()),
      button(say("apply"), apply, { className: "primary", id: "apply-crop" }),
    ],
  );
  draw();
}

/**
 * @param {Crop} crop
 * @param {[number, number]} by
 * @returns {Crop}
 */
function moved(crop, [dx, dy]) {
  const x = Math.min(1 - crop.width, Math.max(0, crop.x + dx));
  const y = Math.min(1 - crop.height, Math.max(0, crop.y + dy));
  return { ...crop, x, y };
}

/**
 * @param {Crop} crop
 * @param {[number, number]} by
 * @returns {Crop}
 */
function resized(crop, [dx, dy]) {
  const width = Math.min(1 - crop.x, Math.max(STEP, crop.width + dx));
  const height = Math.min(1 - crop.y, Math.max(STEP, crop.height + dy));
  return { ...crop, width, height };
}

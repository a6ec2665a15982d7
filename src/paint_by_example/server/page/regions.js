/** The regions, each with its mask and exemplars, and what can be done to a mask. */

import { COLOURS, activeRegion, newId, withRegion } from "./doc.js";
import { attempt, button, byId, chooseFile, make, tell } from "./dom.js";
import { exemplarThumb } from "./exemplars.js";
import { bounds, capture, context2d, emptyMask, isEmpty, whiteCanvas } from "./mask.js";
import { canvasBlob, checkShape, download, readPicture, stem } from "./pictures.js";
import { grown, inverted } from "./shape.js";
import { exemplarsOf } from "./submission.js";
import { say } from "./words.js";

/**
 * @typedef {import("./doc.js").Editing} Editing
 * @typedef {import("./mask.js").Mask} Mask
 */

const MOST = 16;

/** What is done to the active region's mask. */
export class MaskActions {
  /** @param {Editing} editing */
  constructor(editing) {
    this.editing = editing;
  }

  /**
   * @param {string} label
   * @param {(mask: Mask) => Mask} change
   */
  #change(label, change) {
    const region = activeRegion(this.editing.doc);
    if (region) this.editing.change(label, withRegion(this.editing.doc, region.id, { mask: change(region.mask) }));
  }

  invert() {
    this.#change("inverted", inverted);
  }

  clear() {
    this.#change("cleared", (mask) => ({ ...mask, tiles: mask.tiles.map(() => null) }));
  }

  /** @param {1 | -1} direction */
  grow(direction) {
    this.#change(direction > 0 ? "grew" : "shrank", (mask) => {
      const radius = Math.max(2, Math.round(Math.max(mask.width, mask.height) / 160));
      return isEmpty(mask) ? mask : grown(mask, direction * radius);
    });
  }

  /**
   * @param {Blob} blob white where to repaint
   * @param {string} name
   */
  async load(blob, name) {
    const { doc } = this.editing;
    const region = activeRegion(doc);
    if (!doc.source || !region) throw new Error(say("needSource"));
    const picture = await readPicture(blob, name);
    const { width, height } = region.mask;
    checkShape(picture, doc.source, "maskShape");
    const canvas = make("canvas", { width, height });
    const context = context2d(canvas, true);
    context.drawImage(picture.bitmap, 0, 0, width, height);
    const image = context.getImageData(0, 0, width, height);
    const { data } = image;
    for (let at = 0; at < data.length; at += 4) {
      const luminance = 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2];
      data[at + 3] = (luminance * data[at + 3]) / 255 >= 128 ? 255 : 0;
    }
    context.putImageData(image, 0, 0);
    const mask = capture(region.mask, context);
    if (!bounds(mask)) throw new Error(say("maskEmpty"));
    this.editing.change("maskLoaded", withRegion(doc, region.id, { mask }));
  }

  async save() {
    const { doc } = this.editing;
    const region = activeRegion(doc);
    if (!doc.source || !region) throw new Error(say("needSource"));
    const canvas = whiteCanvas(region.mask, doc.source.width, doc.source.height, "#000");
    download(await canvasBlob(canvas), `${stem(doc.source.name)}-mask.png`);
  }
}

/** @param {Editing} editing */
export function addRegion(editing) {
  const { doc } = editing;
  if (!doc.source || doc.regions.length >= MOST) return;
  const taken = doc.regions.map((region) => region.colour);
  const free = COLOURS.findIndex((_, colour) => !taken.includes(colour));
  const colour = free < 0 ? doc.regions.length % COLOURS.length : free;
  const region = { id: newId(), mask: emptyMask(doc.source.width, doc.source.height), exemplars: [], colour };
  editing.change("regionAdded", { ...doc, regions: [...doc.regions, region], active: region.id });
}

/**
 * @param {Editing} editing
 * @param {number} number from 0
 */
export function chooseRegion(editing, number) {
  const region = editing.doc.regions[number];
  if (region && region.id !== editing.doc.active) editing.set({ ...editing.doc, active: region.id });
}

/**
 * @param {Editing} editing
 * @param {MaskActions} masks
 * @param {() => boolean} exemplars whether the model takes any
 */
export function showRegions(editing, masks, exemplars) {
  const list = byId("regions");
  const actions = byId("mask-actions");

  /**
   * @param {import("./doc.js").Region} region
   * @param {number} index
   */
  function chip(region, index) {
    const { doc } = editing;
    const number = index + 1;
    const dot = make("i", { className: "dot" });
    dot.style.background = COLOURS[region.colour];
    const choose = button(null, () => chooseRegion(editing, index), { title: say("region", { number }) });
    choose.append(dot, String(number));
    if (exemplars()) {
      for (const one of exemplarsOf(doc, region)) choose.append(make("img", { src: exemplarThumb(one), alt: "" }));
    }
    choose.setAttribute("aria-pressed", String(region.id === doc.active));
    const made = make("div", { className: "region" }, choose);
    if (doc.regions.length > 1) {
      const title = say("removeRegion", { number });
      made.append(button(null, () => removeRegion(region.id), { icon: "close", title, className: "small" }));
    }
    return made;
  }

  /** @param {string} id */
  function removeRegion(id) {
    const { doc } = editing;
    const regions = doc.regions.filter((region) => region.id !== id);
    const active = doc.active === id ? regions[0].id : doc.active;
    editing.change("regionRemoved", { ...doc, regions, active });
  }

  function update() {
    const focused = [...list.querySelectorAll("button")].indexOf(/** @type {any} */ (document.activeElement));
    list.replaceChildren(...editing.doc.regions.map(chip));
    const buttons = list.querySelectorAll("button");
    if (focused >= 0) buttons[Math.min(focused, buttons.length - 1)]?.focus();
    byId("add-region").toggleAttribute("disabled", !editing.doc.source || editing.doc.regions.length >= MOST);
    for (const one of actions.children) one.toggleAttribute("disabled", !editing.doc.source);
  }

  async function load() {
    const file = await chooseFile();
    if (file) await masks.load(file, file.name);
  }

  function build() {
    /** @param {string} key @param {() => unknown} act */
    const action = (key, act) => button(say(key), () => attempt(act), { className: "small", id: `mask-${key}` });
    actions.replaceChildren(
      action("invert", () => masks.invert()),
      action("clear", () => masks.clear()),
      action("grow", () => masks.grow(1)),
      action("shrink", () => masks.grow(-1)),
      action("uploadMask", load),
      action("saveMask", () => masks.save()),
    );
    update();
  }

  byId("add-region").onclick = () => (editing.doc.source ? addRegion(editing) : tell(say("needSource")));
  editing.addEventListener("change", update);
  build();
  return build;
}

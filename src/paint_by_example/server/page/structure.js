/** The structure of what stands in the regions, as the server would tell it to the model: its map over the holes. */

import { ask } from "./api.js";
import { attempt } from "./dom.js";
import { Preview } from "./preview.js";
import { marked, pictures, takes } from "./submission.js";

/**
 * @typedef {import("./doc.js").Doc} Doc
 * @typedef {import("./api.js").Model} Model
 * @typedef {{maps: {region: number, box: [number, number, number, number], picture: string}[]}} Maps
 */

const PAUSE_MS = 300;

/** Keeps the map on the stage like the document. Sends "change" when it is wanted or not, or on its way. */
export class StructureMap extends EventTarget {
  /**
   * @param {import("./stage.js").Stage} stage
   * @param {() => Model} model
   */
  constructor(stage, model) {
    super();
    this.stage = stage;
    this.model = model;
    this.wanted = false;
    this.busy = false;
    /** What the map is of. @type {unknown[]} */
    this.of = [];
    this.timer = 0;
    stage.editing.addEventListener("change", () => this.update());
  }

  /** @param {boolean} wanted */
  show(wanted) {
    this.wanted = wanted;
    this.update(0);
    this.dispatchEvent(new Event("change"));
  }

  /** @param {number} [pause] ms */
  update(pause = PAUSE_MS) {
    const { doc } = this.stage.editing;
    const model = this.model();
    const of = this.wanted && drawable(doc, model) ? ingredients(doc, model) : [];
    if (of.length === this.of.length && of.every((one, at) => one === this.of[at])) return;
    this.of = of;
    clearTimeout(this.timer);
    this.#lay(null, of.length > 0);
    if (of.length) this.timer = setTimeout(() => attempt(() => this.#draw(doc, model, of)), pause);
  }

  /**
   * @param {Doc} doc
   * @param {Model} model
   * @param {unknown[]} of
   */
  async #draw(doc, model, of) {
    const form = await pictures(doc, model);
    form.append("settings", JSON.stringify({ model: model.name, structure: doc.settings.structure }));
    /** @type {Maps} */
    let answer;
    try {
      answer = await (await ask("/api/structure", { method: "POST", body: form })).json();
    } catch (error) {
      if (of === this.of) this.show(false);
      throw error;
    }
    const map = new Preview(doc);
    for (const { region, box, picture } of answer.maps) await map.paint({ step: 0, region, box, pictures: [picture] });
    if (of !== this.of) return; // something else is wanted by now
    this.#lay(map.canvas, false);
  }

  /**
   * @param {HTMLCanvasElement | null} map
   * @param {boolean} busy another one is on its way
   */
  #lay(map, busy) {
    this.stage.map = map;
    this.stage.draw();
    if (busy === this.busy) return;
    this.busy = busy;
    this.dispatchEvent(new Event("change"));
  }
}

/**
 * @param {Doc} doc
 * @param {Model} model
 * @returns {boolean} whether there is a map to be drawn
 */
function drawable(doc, model) {
  const { structure } = doc.settings;
  const told = takes(model).includes("structure") && structure && (structure !== "sketch" || doc.sketch);
  return Boolean(told && doc.source && marked(doc).length);
}

/**
 * @param {Doc} doc
 * @param {Model} model
 * @returns {unknown[]} all that a map depends on
 */
function ingredients(doc, model) {
  const sketch = doc.settings.structure === "sketch" ? doc.sketch : null;
  return [doc.source, sketch, doc.settings.structure, model.name, ...marked(doc).map((region) => region.mask)];
}

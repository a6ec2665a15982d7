/** Pictures as they come: by file, drop, paste, folder or example; and what they are taken for. */

import { readRecord } from "./api.js";
import { activeRegion, newId } from "./doc.js";
import { attempt, button, byId, chooseFile, make, openDialog, tell } from "./dom.js";
import { addExemplar } from "./exemplars.js";
import { capture, context2d, emptyMask } from "./mask.js";
import { checkShape, readPicture } from "./pictures.js";
import { PRESETS } from "./submission.js";
import { say } from "./words.js";
import { wholeExemplar } from "./exemplar.js";

/** @typedef {import("./doc.js").Editing} Editing */

const EXAMPLE_BOX = [60, 150, 220, 320]; // as in examples/demo.py

/** Takes pictures into the document. */
export class Intake {
  /**
   * @param {Editing} editing
   * @param {import("./regions.js").MaskActions} masks
   * @param {number} pixels of a picture, at most
   * @param {{switch: boolean, models: import("./api.js").Model[]}} models
   */
  constructor(editing, masks, pixels, models) {
    this.editing = editing;
    this.masks = masks;
    this.pixels = pixels;
    this.models = models;
    this.#listen();
  }

  /**
   * @param {Blob} blob
   * @param {string} name
   */
  async #read(blob, name) {
    const picture = await readPicture(blob, name);
    const million = (/** @type {number} */ value) => Math.round(value / 1e5) / 10;
    if (picture.width * picture.height > this.pixels) {
      const pixels = million(picture.width * picture.height);
      throw new Error(say("tooLarge", { name, pixels, most: million(this.pixels) }));
    }
    return picture;
  }

  /**
   * @param {Blob} blob
   * @param {string} name
   */
  async source(blob, name) {
    const source = await this.#read(blob, name);
    const { doc } = this.editing;
    const region = { id: newId(), mask: emptyMask(source.width, source.height), colour: 0 };
    const exemplars = activeRegion(doc)?.exemplars ?? [];
    const regions = [{ ...region, exemplars }];
    this.editing.change("sourceOpened", { ...doc, source, sketch: null, regions, active: region.id });
  }

  /**
   * @param {Blob} blob
   * @param {string} name
   */
  async exemplar(blob, name) {
    addExemplar(this.editing, await this.#read(blob, name));
  }

  /**
   * @param {Blob} blob a drawing of what is to be kept
   * @param {string} name
   */
  async sketch(blob, name) {
    const { doc } = this.editing;
    if (!doc.source) throw new Error(say("needSource"));
    const sketch = await this.#read(blob, name);
    checkShape(sketch, doc.source, "sketchShape");
    this.editing.change("sketchLoaded", { ...this.editing.doc, sketch });
  }

  /**
   * Take the settings out of a result's PNG file.
   *
   * @param {Blob} blob
   * @param {string} name
   */
  async settings(blob, name) {
    const record = await readRecord(blob, name);
    const { steps, scheduler, eta, strength, feather, seed, prompt = "", negative_prompt: negative = "" } = record;
    const preset = Object.keys(PRESETS).find((one) => PRESETS[one].steps === steps && PRESETS[one].scheduler === scheduler);
    const { settings: before } = this.editing.doc;
    const settings = { ...before, steps, scheduler, eta, strength, feather, prompt, negative };
    Object.assign(settings, { preset: preset ?? "custom", candidates: 1, rescale: record.guidance_rescale });
    settings.speed = record.preset ?? "none";
    settings.guidance = record.guidance_scale ?? before.guidance;
    settings.structure = record.structure?.kind ?? record.structure ?? null;
    settings.structureScale = record.structure?.scale ?? 1;
    settings.context = record.context ?? false;
    settings.sourceExemplar = record.source_exemplar ?? 0;
    settings.harmonise = record.harmonise ?? null;
    const model = record.model?.path ?? record.model;
    const there = this.models.models.some((one) => one.name === model);
    if (there && this.models.switch) settings.model = model;
    else if (!there && model) tell(say("noModel", { name: model }), true);
    if (Number.isSafeInteger(seed)) Object.assign(settings, { seed, locked: true });
    else tell(say("seedTooLarge", { seed }), true);
    this.editing.change("settingsLoaded", { ...this.editing.doc, settings });
    tell(say("settingsLoaded", { seed: settings.seed }));
  }

  /** The demo's photograph and exemplar, with a piece of the sky marked. */
  async example() {
    const [source, exemplar] = await Promise.all(
      [["source", "rocket.jpg"], ["exemplar", "retina.jpg"]].map(async ([file, name]) => {
        const answer = await fetch(`/page/example/${file}.jpg`);
        return readPicture(await answer.blob(), name);
      }),
    );
    const painted = wholeExemplar(exemplar);
    const empty = emptyMask(source.width, source.height);
    const canvas = document.createElement("canvas");
    canvas.width = empty.width;
    canvas.height = empty.height;
    const context = context2d(canvas, true);
    const [left, top, right, bottom] = EXAMPLE_BOX;
    context.fillRect(left, top, right - left, bottom - top);
    const region = { id: newId(), mask: capture(empty, context), exemplars: [painted.id], colour: 0 };
    const { doc } = this.editing;
    const settings = { ...doc.settings, candidates: Math.max(2, doc.settings.candidates) };
    this.editing.change("exampleOpened", {
      ...doc,
      source,
      sketch: null,
      exemplars: [...doc.exemplars, painted],
      regions: [region],
      active: region.id,
      settings,
    });
  }

  async chooseSource() {
    const file = await chooseFile();
    if (file) await this.source(file, file.name);
  }

  async chooseExemplar() {
    const file = await chooseFile();
    if (file) await this.exemplar(file, file.name);
  }

  async chooseSketch() {
    const file = await chooseFile();
    if (file) await this.sketch(file, file.name);
  }

  async chooseSettings() {
    const file = await chooseFile("image/png");
    if (file) await this.settings(file, file.name);
  }

  /**
   * Ask what a picture is for, where that is not clear.
   *
   * @param {File} file
   * @returns {Promise<unknown>} once that is settled
   */
  ask(file) {
    if (!this.editing.doc.source) return this.source(file, file.name);
    const kinds = /** @type {const} */ ([
      ["asExemplar", () => this.exemplar(file, file.name)],
      ["asSource", () => this.source(file, file.name)],
      ["asMask", () => this.masks.load(file, file.name)],
      ["asSettings", () => this.settings(file, file.name)],
    ]);
    const buttons = kinds.map(([key, act]) =>
      button(say(key), () => {
        settled = attempt(act);
        dialog.close();
      }, { id: key, className: key === "asExemplar" ? "primary" : "" }),
    );
    /** @type {Promise<void> | null} */
    let settled = null;
    const name = make("p", { className: "quiet" }, file.name);
    const dialog = openDialog(say("pasteWhat"), [name], [...buttons, button(say("cancel"), () => dialog.close())]);
    buttons[0].focus();
    return new Promise((resolve) => dialog.addEventListener("close", () => resolve(settled)));
  }

  #listen() {
    const tray = byId("exemplars");
    const stage = byId("stage");
    /** @param {Event} event */
    const zone = (event) => (tray.contains(/** @type {Node} */ (event.target)) ? tray : stage);
    const clear = () => [tray, stage].forEach((one) => one.classList.remove("dropping"));
    document.addEventListener("dragover", (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      clear();
      zone(event).classList.add("dropping");
    });
    document.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) clear();
    });
    document.addEventListener("drop", (event) => {
      clear();
      const files = [...(event.dataTransfer?.files ?? [])];
      if (!files.length) return;
      event.preventDefault();
      const direct = zone(event) === tray;
      void attempt(async () => {
        for (const file of files) await (direct ? this.exemplar(file, file.name) : this.ask(file));
      });
    });
    document.addEventListener("paste", (event) => {
      const item = [...(event.clipboardData?.items ?? [])].find((one) => one.type.startsWith("image/"));
      const file = item?.getAsFile();
      if (!file) return;
      event.preventDefault();
      void attempt(() => this.ask(file));
    });
  }
}

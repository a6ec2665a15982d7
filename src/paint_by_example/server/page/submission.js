/** A document as the server takes it. */

import { isEmpty, whiteCanvas } from "./mask.js";
import { exemplarFile } from "./exemplar.js";
import { canvasBlob, onWhite, stem } from "./pictures.js";
import { say } from "./words.js";

/**
 * @typedef {import("./doc.js").Doc} Doc
 * @typedef {import("./api.js").Model} Model
 */

export const PRESETS = /** @type {Record<string, {steps: number | null, scheduler: string | null}>} */ ({
  own: { steps: null, scheduler: null },
  quick: { steps: 8, scheduler: "dpm++" },
  fine: { steps: 50, scheduler: "dpm++" },
});

/**
 * @param {Model} model
 * @returns {string[]} the settings by which it heeds what stood in the regions
 */
export function takes(model) {
  return model.takes ?? (model.kind === "exemplar" ? ["source_exemplar", "harmonise"] : []);
}

/**
 * @param {Doc} doc
 * @returns {import("./doc.js").Region[]} the regions that have something marked
 */
export function marked(doc) {
  return doc.regions.filter((region) => !isEmpty(region.mask));
}

/**
 * @param {Doc} doc
 * @param {Model} model
 * @returns {string | null} what is missing, in words
 */
export function missing(doc, model) {
  if (!doc.source) return say("needSource");
  const regions = marked(doc);
  if (!regions.length) return say("needMask");
  if (model.kind === "exemplar" && regions.some((region) => !exemplarsOf(doc, region).length)) return say("needExemplar");
  if ((model.kind === "prompt" || model.kind === "instruct") && !doc.settings.prompt.trim()) return say("needPrompt");
  if (drawn(doc, model) && !doc.sketch) return say("needSketch");
  return null;
}

/**
 * @param {Doc} doc
 * @param {Model} model
 * @returns {boolean} whether a drawing says what is kept
 */
function drawn(doc, model) {
  return doc.settings.structure === "sketch" && takes(model).includes("structure");
}

/**
 * @param {Doc} doc
 * @param {import("./doc.js").Region} region
 * @returns {import("./exemplar.js").Exemplar[]} those of the region; the first there is if none was chosen
 */
export function exemplarsOf(doc, region) {
  const chosen = doc.exemplars.filter((exemplar) => region.exemplars.includes(exemplar.id));
  return chosen.length ? chosen : doc.exemplars.slice(0, 1);
}

/**
 * @param {Doc} doc with nothing missing
 * @returns {number[]} one seed for each candidate
 */
export function seedsOf({ settings }) {
  return Array.from({ length: settings.candidates }, (_, number) => settings.seed + number);
}

/**
 * @param {Doc} doc
 * @param {Model} model
 * @returns {Promise<FormData>} the photograph, its masks, and the drawing where one is asked for
 */
export async function pictures(doc, model) {
  const { source, sketch } = doc;
  if (!source) throw new Error(say("needSource"));
  const form = new FormData();
  form.append("source", source.blob, source.name);
  for (const [number, { mask }] of marked(doc).entries()) {
    const canvas = whiteCanvas(mask, source.width, source.height, "#000");
    form.append("mask", await canvasBlob(canvas), `mask-${number}.png`);
  }
  if (drawn(doc, model) && sketch) {
    const paper = onWhite(sketch.bitmap, source.width, source.height);
    form.append("sketch", await canvasBlob(paper), `${stem(sketch.name)}.png`);
  }
  return form;
}

/**
 * @param {Doc} doc with nothing missing
 * @param {Model} model
 * @returns {Promise<FormData>}
 */
export async function submission(doc, model) {
  const form = await pictures(doc, model);
  const shown = /** @type {import("./exemplar.js").Exemplar[]} */ ([]);
  const regions = marked(doc).map((region, mask) => {
    /** @type {{mask: number, exemplars?: number[]}} */
    const asked = { mask };
    if (model.kind === "exemplar") {
      asked.exemplars = exemplarsOf(doc, region).map((exemplar) => {
        if (!shown.includes(exemplar)) shown.push(exemplar);
        return shown.indexOf(exemplar);
      });
    }
    return asked;
  });
  for (const exemplar of shown) {
    const { blob, name } = await exemplarFile(exemplar);
    form.append("exemplar", blob, name);
  }
  form.append("settings", JSON.stringify(asked(doc, model, regions)));
  return form;
}

/**
 * @param {Doc} doc
 * @param {Model} model
 * @param {object[]} regions
 * @returns {Record<string, unknown>} without what the kind of model does not take
 */
function asked({ settings, ...doc }, model, regions) {
  /** @type {Record<string, unknown>} */
  const all = { model: model.name, regions, seeds: seedsOf({ ...doc, settings }) };
  if (model.kind === "erase") return { ...all, seeds: [settings.seed] };
  const preset = PRESETS[settings.preset] ?? settings;
  all.guidance_scale = settings.guidance;
  if (preset.steps) all.steps = preset.steps;
  if (preset.scheduler) all.scheduler = preset.scheduler;
  if (model.kind === "exemplar") {
    if (settings.speed) all.preset = settings.speed;
    all.feather = settings.feather;
    all.strength = settings.strength;
    all.guidance_rescale = settings.rescale;
    if (preset.scheduler === "ddim") all.eta = settings.eta;
    const told = takes(model);
    if (told.includes("structure") && settings.structure) {
      all.structure = settings.structure;
      all.structure_scale = settings.structureScale;
    }
    if (told.includes("context")) all.context = settings.context;
    if (told.includes("source_exemplar")) all.source_exemplar = settings.sourceExemplar;
    if (told.includes("harmonise") && settings.harmonise) all.harmonise = settings.harmonise;
  } else {
    all.prompt = settings.prompt;
    all.negative_prompt = settings.negative;
  }
  return all;
}

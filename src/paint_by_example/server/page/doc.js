/** The document: what is edited, as one immutable value, and its undo. */

/**
 * @typedef {import("./pictures.js").Picture} Picture
 * @typedef {import("./exemplar.js").Exemplar} Exemplar
 * @typedef {import("./mask.js").Mask} Mask
 */

/**
 * @typedef {object} Region A part to repaint.
 * @property {string} id
 * @property {Mask} mask
 * @property {string[]} exemplars ids; several are blended
 * @property {number} colour number in COLOURS
 */

/**
 * @typedef {object} Settings
 * @property {string | null} model null: the server's current one
 * @property {number} guidance λ
 * @property {string | null} speed preset of the server's; null: the one it takes by itself
 * @property {string} preset of steps
 * @property {number | null} steps null: the model's own
 * @property {string | null} scheduler null: the model's own
 * @property {number} seed
 * @property {boolean} locked the seed stays from run to run
 * @property {number} candidates
 * @property {number} feather pixels
 * @property {number} strength
 * @property {number} rescale
 * @property {number} eta
 * @property {string | null} structure what of the source is kept; null: nothing
 * @property {number} structureScale μ
 * @property {boolean} context regions look at their surroundings
 * @property {number} sourceExemplar share of what stands in a region as a second exemplar
 * @property {string | null} harmonise
 * @property {string} prompt
 * @property {string} negative
 */

/**
 * @typedef {object} Doc
 * @property {Picture | null} source
 * @property {Picture | null} sketch of what is kept, of the source's shape
 * @property {Exemplar[]} exemplars
 * @property {Region[]} regions
 * @property {string} active the region that is drawn into
 * @property {Settings} settings
 */

/** Colours of the regions on the screen: their masks' own colours are white and black. */
export const COLOURS = ["#ff4d6d", "#3a86ff", "#ffb000", "#9b5de5", "#00b894", "#ff7f11", "#00b4d8", "#d63ad6"];

const KEPT = 200;
const MERGE_MS = 1200;

/** @type {Settings} */
export const DEFAULTS = {
  model: null,
  guidance: 5,
  speed: null,
  preset: "own",
  steps: null,
  scheduler: null,
  seed: 0,
  locked: false,
  candidates: 1,
  feather: 0,
  strength: 1,
  rescale: 0,
  eta: 0,
  structure: null,
  structureScale: 1,
  context: false,
  sourceExemplar: 0,
  harmonise: null,
  prompt: "",
  negative: "",
};

/** @returns {string} a name that no other thing has */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @returns {Doc} */
export function emptyDoc() {
  const settings = { ...DEFAULTS, seed: randomSeed() };
  return { source: null, sketch: null, exemplars: [], regions: [], active: "", settings };
}

/** @returns {number} */
export function randomSeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000;
}

/**
 * @param {Doc} doc
 * @returns {Region | undefined} the region that is drawn into
 */
export function activeRegion(doc) {
  return doc.regions.find((region) => region.id === doc.active);
}

/**
 * @param {Doc} doc
 * @param {string} id
 * @param {Partial<Region>} changes
 * @returns {Doc}
 */
export function withRegion(doc, id, changes) {
  return { ...doc, regions: doc.regions.map((region) => (region.id === id ? { ...region, ...changes } : region)) };
}

/** The document and the ones before and after it. Sends "change" whenever it becomes another. */
export class Editing extends EventTarget {
  /** @param {Doc} doc */
  constructor(doc) {
    super();
    this.doc = doc;
    /** @type {{doc: Doc, label: string}[]} */
    this.past = [];
    /** @type {{doc: Doc, label: string}[]} */
    this.future = [];
    this.last = { merge: "", time: 0 };
  }

  /**
   * @param {string} label what was done, a key of the words
   * @param {Doc} doc what it is now
   * @param {string} [merge] what it was done to: in quick succession, changes of the same become one
   */
  change(label, doc, merge = "") {
    if (doc === this.doc) return;
    const now = performance.now();
    const same = merge && merge === this.last.merge && now - this.last.time < MERGE_MS && this.past.length > 0;
    if (!same) this.past.push({ doc: this.doc, label });
    if (this.past.length > KEPT) this.past.shift();
    this.future = [];
    this.last = { merge, time: now };
    this.set(doc);
  }

  /**
   * @param {string} label
   * @param {Partial<Settings>} settings
   */
  settle(label, settings) {
    const { doc } = this;
    const keys = /** @type {(keyof Settings)[]} */ (Object.keys(settings));
    if (keys.every((key) => settings[key] === doc.settings[key])) return this.set(doc);
    this.change(label, { ...doc, settings: { ...doc.settings, ...settings } }, keys.join());
  }

  /** @param {Doc} doc that takes the place of this one, without undo */
  set(doc) {
    this.doc = doc;
    this.dispatchEvent(new Event("change"));
  }

  /** @returns {string | null} what was undone */
  undo() {
    return this.#move(this.past, this.future);
  }

  /** @returns {string | null} what was done again */
  redo() {
    return this.#move(this.future, this.past);
  }

  /**
   * @param {{doc: Doc, label: string}[]} from
   * @param {{doc: Doc, label: string}[]} to
   */
  #move(from, to) {
    const step = from.pop();
    if (!step) return null;
    to.push({ doc: this.doc, label: step.label });
    this.last = { merge: "", time: 0 };
    this.set(step.doc);
    return step.label;
  }
}

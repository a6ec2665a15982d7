/** The settings of a run, as fields. */

import { get } from "./api.js";
import { randomSeed } from "./doc.js";
import { button, byId, icon, make } from "./dom.js";
import { PRESETS, takes } from "./submission.js";
import { say } from "./words.js";

/**
 * @typedef {import("./doc.js").Editing} Editing
 * @typedef {import("./doc.js").Settings} Settings
 * @typedef {import("./api.js").Model} Model
 */

/** @typedef {{current: string, switch: boolean, models: Model[]}} Models */
/** @typedef {{candidates: number, steps: number, pixels: number}} Limits */
/** @typedef {{limits: Limits, schedulers: string[], structures: string[], preset: string}} About */

const STRUCTURES = /** @type {Record<string, string>} */ ({
  edges: "structureEdges",
  "soft-edges": "structureSoftEdges",
  pose: "structurePose",
  sketch: "structureSketch",
});

/**
 * @param {Models} models
 * @param {Settings} settings
 * @returns {Model}
 */
export function chosenModel(models, settings) {
  const name = models.switch ? (settings.model ?? models.current) : models.current;
  const found = models.models.find((model) => model.name === name);
  return found ?? models.models.find((model) => model.name === models.current) ?? models.models[0];
}

/** Shows the fields and keeps them like the document. */
export class SettingsPanel {
  /**
   * @param {Editing} editing
   * @param {Models} models
   * @param {About} about
   * @param {import("./structure.js").StructureMap} map
   * @param {() => unknown} chooseSketch
   */
  constructor(editing, models, about, map, chooseSketch) {
    this.editing = editing;
    this.models = models;
    this.limits = about.limits;
    this.schedulers = about.schedulers;
    this.structures = about.structures;
    this.speed = about.preset;
    this.map = map;
    this.chooseSketch = chooseSketch;
    this.place = byId("settings");
    this.prompts = byId("prompts");
    /** @type {((settings: Settings, model: Model) => void)[]} */
    this.updates = [];
    this.build();
    editing.addEventListener("change", () => this.update());
    map.addEventListener("change", () => this.update());
  }

  /** @returns {Model} */
  get model() {
    return chosenModel(this.models, this.editing.doc.settings);
  }

  /** Ask the server for its models again: more is known of one once it was loaded. */
  async refresh() {
    this.models = await get("/api/models");
    this.update();
  }

  update() {
    const { settings } = this.editing.doc;
    for (const update of this.updates) update(settings, this.model);
  }

  /** Make all fields anew, in the present language. */
  build() {
    this.updates = [];
    const more = this.#details(
      "more",
      this.#slider("strength", 0.05, 1, 0.05, ({ kind }) => kind === "exemplar"),
      this.#slider("rescale", 0, 1, 0.05, ({ kind }) => kind === "exemplar"),
      this.#scheduler(),
      this.#slider("eta", 0, 1, 0.05, ({ kind }, settings) => kind === "exemplar" && settings.scheduler === "ddim"),
    );
    this.updates.push((_, { kind }) => (more.hidden = kind === "erase"));
    const guidance = this.#slider("guidance", 0, 15, 0.5, ({ kind }) => kind !== "erase");
    this.updates.push(({}, { kind }) => {
      const label = /** @type {HTMLElement} */ (guidance.firstElementChild);
      label.textContent = say(kind === "exemplar" ? "guidance" : "guidanceWords");
    });
    this.place.replaceChildren(
      this.#model(),
      guidance,
      this.#slider("candidates", 1, this.limits.candidates, 1, ({ kind }) => kind !== "erase"),
      this.#seed(),
      this.#speed(),
      this.#preset(),
      this.#steps(),
      this.#slider("feather", 0, 60, 1, ({ kind }) => kind === "exemplar"),
      this.#heed(),
      more,
    );
    this.prompts.replaceChildren(this.#text("prompt"), this.#text("negative"));
    this.updates.push((_, { kind }) => {
      this.prompts.hidden = kind !== "prompt" && kind !== "instruct";
      byId("exemplars").hidden = kind !== "exemplar";
      byId("sweep").hidden = kind === "erase";
    });
    this.update();
  }

  /** @param {Partial<Settings>} changed */
  #set(changed) {
    this.editing.settle("settingChanged", changed);
  }

  /**
   * @param {string} key
   * @param {HTMLElement} control
   * @param {...HTMLElement} rest
   */
  #field(key, control, ...rest) {
    control.id ||= `set-${key}`;
    return make("div", { className: "field" }, make("label", { for: control.id }, say(key)), control, ...rest);
  }

  /**
   * Fields that are shown when they are asked for, and stay so when all are made anew.
   *
   * @param {string} key
   * @param {...HTMLElement} fields
   */
  #details(key, ...fields) {
    const id = `set-${key}`;
    const open = /** @type {HTMLDetailsElement | null} */ (document.getElementById(id))?.open ?? false;
    return make("details", { id, open }, make("summary", {}, say(key)), make("div", { className: "fields" }, ...fields));
  }

  /** What of the source an edit heeds, as far as the model can. */
  #heed() {
    /** @param {string} name @returns {(model: Model) => boolean} */
    const taken = (name) => (model) => takes(model).includes(name);
    const details = this.#details(
      "heed",
      this.#choice("structure", this.structures.map((kind) => [kind, STRUCTURES[kind]]), taken("structure")),
      this.#sketch(),
      this.#slider("structureScale", 0, 3, 0.1, (model, { structure }) => taken("structure")(model) && structure !== null),
      this.#showMap(),
      this.#context(),
      this.#slider("sourceExemplar", 0, 1, 0.05, taken("source_exemplar")),
      this.#choice("harmonise", [["colour", "harmoniseColour"], ["poisson", "harmonisePoisson"]], taken("harmonise")),
    );
    this.updates.push((_, model) => (details.hidden = !takes(model).length));
    return details;
  }

  /**
   * One of some things, or none.
   *
   * @param {"structure" | "harmonise"} key
   * @param {string[][]} values each with its word
   * @param {(model: Model) => boolean} fits
   */
  #choice(key, values, fits) {
    const select = make("select", {});
    select.append(make("option", { value: "" }, say("nothing")));
    select.append(...values.map(([value, word]) => make("option", { value }, say(word))));
    select.onchange = () => this.#set({ [key]: select.value || null });
    const field = this.#field(key, select);
    this.updates.push((settings, model) => {
      field.hidden = !fits(model);
      select.value = settings[key] ?? "";
    });
    return field;
  }

  #sketch() {
    const choose = button(say("chooseSketch"), () => this.chooseSketch(), { className: "small line", id: "choose-sketch" });
    const name = make("span", { className: "quiet", role: "status" });
    const field = make("div", { className: "field" }, name, choose);
    this.updates.push((settings, model) => {
      field.hidden = settings.structure !== "sketch" || !takes(model).includes("structure");
      name.textContent = this.editing.doc.sketch?.name ?? say("noSketch");
    });
    return field;
  }

  #showMap() {
    const toggle = button(say("showMap"), () => this.map.show(!this.map.wanted), { className: "small line", id: "show-map" });
    this.updates.push((settings, model) => {
      toggle.hidden = settings.structure === null || !takes(model).includes("structure");
      toggle.setAttribute("aria-pressed", String(this.map.wanted));
      toggle.textContent = say(this.map.busy ? "drawingMap" : "showMap");
    });
    return toggle;
  }

  #context() {
    const box = make("input", { type: "checkbox" });
    box.onchange = () => this.#set({ context: box.checked });
    const field = this.#field("context", box);
    this.updates.push((settings, model) => {
      field.hidden = !takes(model).includes("context");
      box.checked = settings.context;
    });
    return field;
  }

  /**
   * A number and a slider for it.
   *
   * @param {"guidance" | "candidates" | "feather" | "strength" | "rescale" | "eta" | "structureScale" | "sourceExemplar"} key
   * @param {number} min
   * @param {number} max of the slider; λ, μ and soft edges may be beyond it
   * @param {number} step
   * @param {(model: Model, settings: Settings) => boolean} fits
   */
  #slider(key, min, max, step, fits) {
    const free = key === "guidance" || key === "structureScale";
    const [least, most] = free ? [-100, 100] : key === "feather" ? [0, 1000] : [min, max];
    const number = make("input", { type: "number", min: least, max: most, step: free ? "any" : step });
    const slider = make("input", { type: "range", min, max, step, tabIndex: -1, "aria-hidden": "true" });
    const set = (/** @type {HTMLInputElement} */ input) => {
      const value = Number(input.value);
      if (input.value === "" || Number.isNaN(value)) return;
      this.#set({ [key]: Math.min(most, Math.max(least, value)) });
    };
    number.onchange = () => set(number);
    slider.oninput = () => set(slider);
    const field = this.#field(key, number, slider);
    this.updates.push((settings, model) => {
      field.hidden = !fits(model, settings);
      number.value = String(settings[key]);
      slider.value = String(settings[key]);
    });
    return field;
  }

  #model() {
    const select = make("select", {});
    select.append(...this.models.models.map(({ name }) => make("option", { value: name }, name)));
    select.onchange = () => this.#set({ model: select.value });
    const field = this.#field("model", select);
    field.hidden = this.models.models.length < 2;
    select.disabled = !this.models.switch;
    this.updates.push((_, model) => (select.value = model.name));
    return field;
  }

  #seed() {
    const number = make("input", { type: "number", min: 0, max: Number.MAX_SAFE_INTEGER, step: 1, id: "set-seed" });
    number.onchange = () => {
      const value = Math.floor(Number(number.value));
      if (value >= 0 && value < Number.MAX_SAFE_INTEGER - 100) this.#set({ seed: value });
      else this.update();
    };
    const dice = button(null, () => this.#set({ seed: randomSeed() }), { icon: "dice", title: say("newSeed") });
    const lock = button(null, () => this.#set({ locked: !this.editing.doc.settings.locked }), { title: say("lockSeed") });
    lock.id = "lock-seed";
    lock.append(icon("lock"));
    const control = make("div", { className: "control" }, number, dice, lock);
    const field = make("div", { className: "field" }, make("label", { for: "set-seed" }, say("seed")), control);
    this.updates.push((settings, { kind }) => {
      field.hidden = kind === "erase";
      number.value = String(settings.seed);
      lock.setAttribute("aria-pressed", String(settings.locked));
    });
    return field;
  }

  #speed() {
    const select = make("select", {});
    select.append(
      make("option", { value: "none" }, say("schedulerOwn")),
      make("option", { value: "exact" }, say("speedExact")),
      make("option", { value: "fast" }, say("speedFast")),
      make("option", { value: "draft" }, say("speedDraft")),
    );
    select.onchange = () => this.#set({ speed: select.value });
    const field = this.#field("speed", select);
    this.updates.push((settings, { kind }) => {
      field.hidden = kind !== "exemplar";
      select.value = settings.speed ?? this.speed;
    });
    return field;
  }

  #preset() {
    const select = make("select", {});
    const own = make("option", { value: "own" });
    select.append(
      make("option", { value: "quick" }, say("presetQuick")),
      own,
      make("option", { value: "fine" }, say("presetFine")),
      make("option", { value: "custom" }, say("presetCustom")),
    );
    select.onchange = () => {
      const preset = select.value;
      const known = PRESETS[preset];
      this.#set({ preset, ...(known ?? { steps: this.editing.doc.settings.steps ?? this.model.steps ?? 50 }) });
    };
    const field = this.#field("preset", select);
    this.updates.push((settings, model) => {
      field.hidden = model.kind === "erase";
      own.textContent = say(model.steps ? "presetOwn" : "schedulerOwn", { steps: model.steps ?? "" });
      select.value = settings.preset;
    });
    return field;
  }

  #steps() {
    const number = make("input", { type: "number", min: 1, max: this.limits.steps, step: 1 });
    number.onchange = () => {
      const value = Math.round(Number(number.value));
      if (value >= 1) this.#set({ steps: Math.min(this.limits.steps, value), preset: "custom" });
    };
    const field = this.#field("steps", number);
    this.updates.push((settings, { kind }) => {
      field.hidden = kind === "erase" || settings.preset !== "custom";
      number.value = String(settings.steps ?? "");
    });
    return field;
  }

  #scheduler() {
    const select = make("select", {});
    select.append(make("option", { value: "" }, say("schedulerOwn")));
    select.append(...this.schedulers.map((name) => make("option", { value: name }, name)));
    select.onchange = () => {
      const { settings } = this.editing.doc;
      const steps = settings.steps ?? this.model.steps ?? 50;
      this.#set({ scheduler: select.value || null, preset: "custom", steps });
    };
    const field = this.#field("scheduler", select);
    this.updates.push((settings) => (select.value = settings.scheduler ?? ""));
    return field;
  }

  /** @param {"prompt" | "negative"} key */
  #text(key) {
    const area = make("textarea", { rows: 2, maxLength: 2000 });
    area.onchange = () => this.#set({ [key]: area.value });
    const field = this.#field(key, area);
    this.updates.push((settings) => (area.value = settings[key]));
    return field;
  }
}

/** The strip of results: what was painted, in this visit and before. */

import { attempt, button, byId, make, tell } from "./dom.js";
import { activeRegion, newId } from "./doc.js";
import { download, readPicture } from "./pictures.js";
import { pictureOf, unpacked } from "./session.js";
import { bounds, emptyMask } from "./mask.js";
import { say } from "./words.js";

/**
 * @typedef {import("./runs.js").Runs} Runs
 * @typedef {import("./runs.js").Run} Run
 * @typedef {import("./runs.js").Kept} Kept
 */

/** Shows thumbnails; the chosen one stands on the stage. */
export class Results {
  /**
   * @param {Runs} runs
   * @param {import("./stage.js").Stage} stage
   */
  constructor(runs, stage) {
    this.runs = runs;
    this.stage = stage;
    this.strip = byId("film");
    /** @type {{run: Run, result: Kept} | null} */
    this.chosen = null;
    /** Where the painted part is, across: 0 to 1. */
    this.middle = 0.5;
    /** @type {Map<Kept, HTMLButtonElement>} */
    this.buttons = new Map();
    runs.addEventListener("change", () => this.update());
    runs.addEventListener("done", (event) => this.#arrived(/** @type {CustomEvent} */ (event).detail));
    this.strip.addEventListener("keydown", (event) => {
      if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
        event.preventDefault();
        event.stopPropagation();
        this.next(event.key === "ArrowRight" ? 1 : -1, true);
      }
    });
    this.update();
  }

  /** @returns {{run: Run, result: Kept}[]} newest first */
  all() {
    return this.runs.list.flatMap((run) => run.results.map((result) => ({ run, result })));
  }

  update() {
    const all = this.all();
    const kept = new Set(all.map(({ result }) => result));
    for (const [result, made] of this.buttons) {
      if (kept.has(result)) continue;
      URL.revokeObjectURL(/** @type {HTMLImageElement} */ (made.firstChild).src);
      this.buttons.delete(result);
    }
    if (this.chosen && !kept.has(this.chosen.result)) this.chosen = null;
    const buttons = all.map((one) => this.#button(one.run, one.result));
    const same = buttons.length === this.strip.children.length && buttons.every((made, at) => made === this.strip.children[at]);
    if (!same) this.strip.replaceChildren(...buttons);
    if (!all.length) this.strip.replaceChildren(make("p", { className: "quiet" }, say("noResults")));
    this.strip.role = all.length ? "listbox" : "group";
    this.#mark();
  }

  /** Make all anew, in the present language. */
  rebuild() {
    byId("result-actions").replaceChildren();
    for (const made of this.buttons.values()) URL.revokeObjectURL(/** @type {HTMLImageElement} */ (made.firstChild).src);
    this.buttons.clear();
    this.update();
  }

  /**
   * @param {Run} run
   * @param {Kept} result
   */
  #button(run, result) {
    const known = this.buttons.get(result);
    if (known) return known;
    const made = button(null, () => attempt(() => this.choose({ run, result })), {});
    made.setAttribute("role", "option");
    const label = run.guidance === null ? run.model : `λ ${run.guidance} · ${result.seed}`;
    made.title = run.guidance === null ? run.model : say("resultName", { guidance: run.guidance, seed: result.seed });
    made.append(
      make("img", { src: URL.createObjectURL(result.thumb), alt: "" }),
      make("span", {}, label),
    );
    this.buttons.set(result, made);
    return made;
  }

  #mark() {
    const first = this.chosen?.result ?? this.all()[0]?.result;
    for (const [result, made] of this.buttons) {
      made.setAttribute("aria-selected", String(result === this.chosen?.result));
      made.tabIndex = result === first ? 0 : -1;
    }
    this.#actions();
  }

  #actions() {
    const place = byId("result-actions");
    if (!this.chosen) {
      if (place.contains(document.activeElement)) this.strip.focus(); // the buttons go
      place.replaceChildren();
    }
    if (!this.chosen || place.children.length) return;
    const small = "small";
    place.replaceChildren(
      button(say("download"), () => this.download(), { icon: "save", className: small, id: "download" }),
      button(say("useAsSource"), () => attempt(() => this.useAsSource()), { icon: "image", className: small, id: "use" }),
      button(null, () => attempt(() => this.restore()), { icon: "undo", className: small, title: say("restore"), id: "restore" }),
      button(null, () => attempt(() => this.remove()), { icon: "close", className: small, title: say("remove"), id: "remove" }),
    );
  }

  /** @param {{run: Run, result: Kept}} one */
  async choose(one) {
    this.chosen = one;
    this.#mark();
    this.buttons.get(one.result)?.scrollIntoView({ block: "nearest", inline: "nearest" });
    const [result, before] = await Promise.all([
      readPicture(one.result.blob, this.#name(one)),
      pictureOf(/** @type {string} */ (one.run.doc.source)),
    ]);
    if (this.chosen !== one) return;
    if (one.result.flagged) tell(say("flagged"));
    const masks = one.run.doc.regions.map((region) => ({ box: bounds(region.mask), mask: region.mask }));
    const middles = masks.flatMap(({ box, mask }) => (box ? [(box.left + box.right) / 2 / mask.width] : []));
    this.middle = middles.length ? middles[0] : 0.5;
    this.stage.show({ result, before });
  }

  /**
   * @param {number} by
   * @param {boolean} [focus]
   * @param {() => void} [then] done once it is shown
   */
  next(by, focus = false, then = () => undefined) {
    const all = this.all();
    if (!all.length) return;
    const at = all.findIndex(({ result }) => result === this.chosen?.result);
    const one = all[Math.min(all.length - 1, Math.max(0, at + by))];
    void attempt(() => this.choose(one).then(then));
    if (focus) this.buttons.get(one.result)?.focus();
  }

  /** @param {Run} run */
  #arrived(run) {
    if (!run.results.length) return;
    this.stage.preview = null;
    tell(say("finished", { count: run.results.length }));
    void attempt(() => this.choose({ run, result: run.results[0] }));
  }

  /** @param {{run: Run, result: Kept}} one */
  #name({ run, result }) {
    return `${run.name}-${run.guidance === null ? run.model : `λ${run.guidance}-${result.seed}`}.png`;
  }

  download() {
    if (this.chosen) download(this.chosen.result.blob, this.#name(this.chosen));
  }

  async useAsSource() {
    if (!this.chosen) return;
    const source = await readPicture(this.chosen.result.blob, this.#name(this.chosen));
    const { editing } = this.stage;
    const region = { id: newId(), mask: emptyMask(source.width, source.height), exemplars: [], colour: 0 };
    const exemplars = activeRegion(editing.doc)?.exemplars ?? [];
    editing.change("useAsSource", { ...editing.doc, source, regions: [{ ...region, exemplars }], active: region.id });
  }

  async restore() {
    if (!this.chosen) return;
    const one = this.chosen;
    this.stage.editing.change("restored", await unpacked(one.run.doc));
    await this.choose(one);
  }

  async remove() {
    const { chosen } = this;
    if (!chosen) return;
    const all = this.all();
    const at = all.findIndex(({ result }) => result === chosen.result);
    const next = all[at + 1] ?? all[at - 1];
    if (next) await this.choose(next);
    else this.stage.show(null);
    if (!next) this.chosen = null;
    await this.runs.remove(chosen.run, chosen.result);
  }
}

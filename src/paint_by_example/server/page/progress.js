/** What is under way: place in the queue, step, time left, looks, and a way to cancel. */

import { attempt, button, byId, make } from "./dom.js";
import { say } from "./words.js";

/**
 * @typedef {import("./runs.js").Runs} Runs
 * @typedef {import("./runs.js").Run} Run
 */

/** Shows one card for each run; the cards stay while they change, so that the focus does. */
export class Progress {
  /** @param {Runs} runs */
  constructor(runs) {
    this.runs = runs;
    this.place = byId("progress");
    this.sending = make("p", { className: "quiet" });
    /** @type {Map<string, {card: HTMLElement, text: HTMLElement, bar: HTMLProgressElement, looks: HTMLElement}>} */
    this.cards = new Map();
    runs.addEventListener("change", () => this.update());
    runs.addEventListener("preview", () => this.update());
  }

  update() {
    const active = this.runs.active();
    for (const [id, { card }] of this.cards) {
      if (active.some((run) => run.id === id)) continue;
      const focused = card.contains(document.activeElement);
      card.remove();
      if (focused) byId("run").focus();
      this.cards.delete(id);
    }
    for (const run of active) this.#show(run);
    this.sending.textContent = say("sending");
    if (this.runs.sending) this.place.append(this.sending);
    else this.sending.remove();
  }

  /** Make all anew, in the present language. */
  rebuild() {
    this.cards.clear();
    this.place.replaceChildren();
    this.update();
  }

  /** @param {Run} run */
  #show(run) {
    const known = this.cards.get(run.id) ?? this.#card(run);
    const live = this.runs.live.get(run.id);
    const edit = live?.edit;
    known.text.textContent = describe(edit ?? null);
    if (edit?.step) {
      known.bar.max = edit.steps;
      known.bar.value = edit.step;
    } else {
      known.bar.removeAttribute("value");
    }
    const looks = live?.looks ?? [];
    if (looks.length < 2) return;
    while (known.looks.children.length < looks.length) known.looks.append(make("img", { alt: "" }));
    looks.forEach((look, number) => (/** @type {HTMLImageElement} */ (known.looks.children[number]).src = look));
  }

  /** @param {Run} run */
  #card(run) {
    const text = make("span", {});
    const bar = make("progress", { "aria-label": run.guidance === null ? run.model : `λ ${run.guidance}` });
    const looks = make("div", { className: "looks" });
    const cancel = button(say("cancel"), () => attempt(() => this.runs.cancel(run)), { className: "small line" });
    const card = make("div", { className: "job" }, make("div", { className: "row" }, text, cancel), bar, looks);
    this.place.append(card);
    const known = { card, text, bar, looks };
    this.cards.set(run.id, known);
    return known;
  }
}

/**
 * @param {import("./api.js").Edit | null} edit
 * @returns {string}
 */
function describe(edit) {
  if (!edit) return say("waiting");
  if (edit.state === "queued") return edit.place ? say("queued", { place: edit.place }) : say("waiting");
  if (!edit.step) return say("starting");
  const step = say("stepOf", { step: edit.step, steps: edit.steps });
  if (edit.seconds_left === null) return step;
  return `${step} · ${say("secondsLeft", { seconds: Math.max(1, Math.round(edit.seconds_left)) })}`;
}

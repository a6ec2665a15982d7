/** The tray of exemplars. */

import { activeRegion, withRegion } from "./doc.js";
import { button, byId, make } from "./dom.js";
import { exemplarCanvas, wholeExemplar } from "./exemplar.js";
import { cropExemplar } from "./crop.js";
import { exemplarsOf } from "./submission.js";
import { say } from "./words.js";

/**
 * @typedef {import("./doc.js").Editing} Editing
 * @typedef {import("./exemplar.js").Exemplar} Exemplar
 */

const THUMB = 200;
/** @type {WeakMap<Exemplar, string>} */
const thumbs = new WeakMap();

/**
 * @param {Exemplar} exemplar
 * @returns {string} address of a small picture
 */
export function exemplarThumb(exemplar) {
  let known = thumbs.get(exemplar);
  if (!known) {
    known = exemplarCanvas(exemplar, THUMB).toDataURL("image/png");
    thumbs.set(exemplar, known);
  }
  return known;
}

/**
 * @param {Editing} editing
 * @param {import("./pictures.js").Picture} picture
 */
export function addExemplar(editing, picture) {
  const { doc } = editing;
  const exemplar = wholeExemplar(picture);
  const active = activeRegion(doc);
  const added = { ...doc, exemplars: [...doc.exemplars, exemplar] };
  const changed = active ? withRegion(added, active.id, { exemplars: [exemplar.id] }) : added;
  editing.change("exemplarAdded", changed);
}

/**
 * @param {Editing} editing
 * @param {() => void} choose a file
 */
export function showExemplars(editing, choose) {
  const tray = byId("exemplar-tray");
  /** @type {Exemplar[]} */
  let shown = [];
  /** @type {Map<string, HTMLElement>} */
  let tiles = new Map();

  /** @param {Exemplar} exemplar */
  function tile(exemplar) {
    const { name } = exemplar.picture;
    const title = say("useExemplar", { name });
    const use = button(null, (event) => pick(exemplar, event.shiftKey), { title });
    use.append(make("img", { src: exemplarThumb(exemplar), alt: "", draggable: false }));
    use.oncontextmenu = (event) => {
      event.preventDefault(); // the right button, or a finger that stays
      pick(exemplar, true);
    };
    const crop = button(null, () => cropExemplar(editing, exemplar), { icon: "crop", title: say("cropExemplar", { name }) });
    const remove = button(null, () => discard(exemplar), { icon: "close", title: say("removeExemplar", { name }) });
    return make("div", { className: "tile" }, use, make("div", { className: "corner" }, crop, remove));
  }

  /**
   * @param {Exemplar} exemplar
   * @param {boolean} more
   */
  function pick(exemplar, more) {
    const { doc } = editing;
    const region = activeRegion(doc);
    if (!region) return;
    const before = exemplarsOf(doc, region).map(({ id }) => id);
    let exemplars = [exemplar.id];
    if (more) {
      const fewer = before.filter((id) => id !== exemplar.id);
      exemplars = fewer.length < before.length && fewer.length ? fewer : [...fewer, exemplar.id];
    }
    editing.change("exemplarChosen", withRegion(doc, region.id, { exemplars }));
  }

  /** @param {Exemplar} exemplar */
  function discard(exemplar) {
    const { doc } = editing;
    const regions = doc.regions.map((region) => ({
      ...region,
      exemplars: region.exemplars.filter((id) => id !== exemplar.id),
    }));
    const at = doc.exemplars.indexOf(exemplar);
    editing.change("exemplarRemoved", { ...doc, regions, exemplars: doc.exemplars.filter((one) => one !== exemplar) });
    const tile = tray.children[Math.min(at, tray.children.length - 1)]; // the focus stays near
    /** @type {HTMLElement | null} */ (tile.matches("button") ? tile : tile.querySelector("button"))?.focus();
  }

  function update() {
    const { doc } = editing;
    if (doc.exemplars !== shown || !tray.children.length) {
      shown = doc.exemplars;
      tiles = new Map(shown.map((exemplar) => [exemplar.id, tile(exemplar)]));
      tray.replaceChildren(...tiles.values());
      if (!shown.length) tray.append(button(say("dropExemplar"), choose, { className: "drop-here", id: "drop-exemplar" }));
    }
    const region = activeRegion(doc);
    const used = region ? exemplarsOf(doc, region).map(({ id }) => id) : [];
    for (const [id, made] of tiles) made.firstElementChild?.setAttribute("aria-pressed", String(used.includes(id)));
  }

  editing.addEventListener("change", update);
  update();
  return () => {
    shown = [];
    tray.replaceChildren();
    update();
  };
}

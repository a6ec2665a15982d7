/** The controls on the stage: mask, result or both, zoom, and the original for as long as it is held. */

import { byId } from "./dom.js";

/**
 * @param {import("./stage.js").Stage} stage
 * @param {import("./results.js").Results} results
 */
export function showWhatIsShown(stage, results) {
  const slider = /** @type {HTMLInputElement} */ (byId("split"));
  const zoomed = byId("zoom");

  function update() {
    byId("shown").hidden = !results.all().length;
    byId("show-mask").setAttribute("aria-pressed", String(!stage.shown));
    byId("show-result").setAttribute("aria-pressed", String(Boolean(stage.shown) && stage.split === null));
    byId("show-split").setAttribute("aria-pressed", String(stage.split !== null));
    slider.hidden = stage.split === null;
    byId("warning").classList.toggle("away", Boolean(stage.shown));
    follow();
  }

  /** Keep the slider over the picture. */
  function follow() {
    zoomed.textContent = `${Math.round(stage.view.scale * 100)}%`;
    const picture = stage.shown?.result;
    if (!picture) return;
    const thumb = 40; // its middle travels from one edge of the picture to the other
    slider.style.left = `${stage.view.x - thumb / 2}px`;
    slider.style.width = `${picture.width * stage.view.scale + thumb}px`;
  }

  const act = {
    /** @param {boolean} held */
    hold(held) {
      if (stage.holding === held) return;
      stage.holding = held;
      stage.draw();
    },
    mask() {
      stage.show(null);
    },
    result() {
      stage.split = null;
      if (stage.shown) stage.show(stage.shown);
      else results.next(0);
    },
    split() {
      if (stage.split !== null) return act.result();
      if (!stage.shown) return void results.next(0, false, act.split);
      stage.split = results.middle;
      slider.value = String(Math.round(stage.split * 1000));
      stage.show(stage.shown);
    },
    /** @param {number} factor */
    zoom(factor) {
      stage.view.zoom(factor, { x: stage.frame.clientWidth / 2, y: stage.frame.clientHeight / 2 });
      stage.draw();
    },
  };

  stage.addEventListener("shown", update);
  stage.addEventListener("drawn", follow);
  results.runs.addEventListener("change", update);
  slider.oninput = () => {
    stage.split = Number(slider.value) / 1000;
    stage.draw();
  };
  byId("show-mask").onclick = act.mask;
  byId("show-result").onclick = act.result;
  byId("show-split").onclick = act.split;
  byId("zoom-in").onclick = () => act.zoom(1.25);
  byId("zoom-out").onclick = () => act.zoom(0.8);
  byId("fit").onclick = () => stage.fit();
  const hold = byId("hold");
  hold.addEventListener("pointerdown", () => act.hold(true));
  hold.addEventListener("contextmenu", (event) => event.preventDefault()); // a finger that stays brings one
  for (const end of ["pointerup", "pointerleave", "pointercancel", "blur"]) hold.addEventListener(end, () => act.hold(false));
  hold.addEventListener("keydown", (event) => {
    if (event.key === " " || event.key === "Enter") act.hold(true);
  });
  hold.addEventListener("keyup", () => act.hold(false));
  update();
  return act;
}

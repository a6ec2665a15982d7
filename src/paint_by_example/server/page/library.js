/** The server's exemplar library: looked through, searched, and taken from. */

import { ask, fetchBlob, get } from "./api.js";
import { activeRegion } from "./doc.js";
import { attempt, button, byId, make } from "./dom.js";
import { exemplarFile } from "./exemplar.js";
import { isEmpty, whiteCanvas } from "./mask.js";
import { canvasBlob } from "./pictures.js";
import { exemplarsOf } from "./submission.js";
import { say } from "./words.js";

/**
 * @typedef {import("./doc.js").Editing} Editing
 * @typedef {{id: number, name: string, width: number, height: number, tags: string[]}} Kept
 * @typedef {{total: number, pictures: Kept[]}} Page
 */

const COUNT = 9; // pictures at a time

/**
 * @param {Editing} editing
 * @param {{pictures: number, tags: string[], text: boolean} | null} about null: the server has no library
 * @param {() => boolean} wanted whether the model takes exemplars
 * @param {(blob: Blob, name: string) => Promise<void>} take
 * @returns {() => void} makes the panel anew, in the present language
 */
export function showLibrary(editing, about, wanted, take) {
  const place = byId("library");
  if (!about) return () => {};
  const { pictures: number, tags, text } = about;
  let tag = "";
  let start = 0;
  let mode = "libraryAll";
  let asked = 0;
  /** @type {Page} */
  let shown = { total: 0, pictures: [] };
  /** What is searched by: a picture's number, words, or files. @type {number | string | FormData | null} */
  let by = null;

  const grid = make("div", { className: "tray", id: "library-tray" });
  const where = make("p", { className: "quiet", role: "status" });
  /** @type {HTMLButtonElement[]} */
  let modes = [];
  /** @type {HTMLButtonElement[]} */
  let turns = [];

  /** Ask for what is wanted, and show it. */
  async function search() {
    const query = new URLSearchParams({ start: String(start), count: String(COUNT) });
    if (tag) query.append("tag", tag);
    if (typeof by === "number") query.append("like", String(by));
    if (typeof by === "string") query.append("text", by);
    const turn = ++asked;
    const answer =
      by instanceof FormData
        ? await (await ask(`/api/library/search?${query}`, { method: "POST", body: by })).json()
        : await get(`/api/library?${query}`);
    if (turn !== asked) return; // something else was asked for meanwhile
    shown = answer;
    draw();
  }

  /**
   * @param {string} chosen
   * @param {() => number | string | FormData | null | Promise<FormData>} make what to search by
   */
  const change = (chosen, make) =>
    attempt(async () => {
      by = await make();
      mode = chosen;
      start = 0;
      await search();
    });

  /** @returns {Promise<FormData>} */
  async function exemplar() {
    const { doc } = editing;
    const region = activeRegion(doc);
    const [one] = region ? exemplarsOf(doc, region) : doc.exemplars;
    if (!one) throw new Error(say("needExemplar"));
    const { blob, name } = await exemplarFile(one);
    const form = new FormData();
    form.append("exemplar", blob, name);
    return form;
  }

  /** @returns {Promise<FormData>} */
  async function hole() {
    const { source, ...doc } = editing.doc;
    if (!source) throw new Error(say("needSource"));
    const region = doc.regions.find((one) => one.id === doc.active);
    if (!region || isEmpty(region.mask)) throw new Error(say("needMask"));
    const form = new FormData();
    form.append("source", source.blob, source.name);
    form.append("mask", await canvasBlob(whiteCanvas(region.mask, source.width, source.height, "#000")), "mask.png");
    return form;
  }

  /** @param {Kept} one */
  function tile(one) {
    const { id, name, width, height } = one;
    const title = [say("takeFromLibrary", { name, width, height }), ...one.tags].join(" · ");
    const use = button(null, () => attempt(async () => take(await fetchBlob(`/api/library/${id}/picture`), name)), { title });
    use.append(make("img", { src: `/api/library/${id}/thumbnail`, alt: "", loading: "lazy", draggable: false }));
    const more = button(null, () => change("", () => id), { icon: "similar", title: say("moreLike", { name }) });
    return make("div", { className: "tile" }, use, make("div", { className: "corner" }, more));
  }

  function draw() {
    const { total, pictures } = shown;
    const focused = grid.contains(document.activeElement);
    grid.replaceChildren(...pictures.map(tile));
    if (focused) (grid.querySelector("button") ?? modes[0]).focus();
    const [from, to] = [start + 1, start + pictures.length];
    where.textContent = total ? say("shownOf", { from, to, total: total.toLocaleString() }) : say("libraryNone");
    for (const one of modes) one.setAttribute("aria-pressed", String(one.id === mode));
    const [back, next] = turns;
    const lost = turns.find((one) => one === document.activeElement);
    back.disabled = !start;
    next.disabled = start + COUNT >= total;
    if (lost?.disabled) (lost === back ? next : back).focus();
  }

  /** @param {1 | -1} by pages */
  const turn = (by) =>
    attempt(async () => {
      start += by * COUNT;
      await search();
    });

  function build() {
    /** @param {string} key @param {() => number | FormData | null | Promise<FormData>} make */
    const choose = (key, make) => button(say(key), () => change(key, make), { id: key, className: "small" });
    modes = [choose("libraryAll", () => null), choose("libraryLike", exemplar), choose("libraryFit", hole)];
    turns = [
      button(say("previousPage"), () => turn(-1), { className: "small", id: "library-back" }),
      button(say("nextPage"), () => turn(1), { className: "small", id: "library-next" }),
    ];
    /** @type {HTMLElement[]} */
    const head = [make("h2", {}, say("libraryCount", { count: number.toLocaleString() }))];
    if (tags.length) head.push(tagChoice());
    place.replaceChildren(
      make("div", { className: "card-head" }, ...head),
      make("div", { className: "library-modes", role: "group", "aria-label": say("library") }, ...modes),
      ...(text ? [words()] : []),
      grid,
      make("div", { className: "library-pages" }, turns[0], where, turns[1]),
    );
    draw();
  }

  function words() {
    const field = make("input", { type: "text", id: "library-text", maxLength: 1000, enterKeyHint: "search" });
    field.setAttribute("aria-label", say("libraryText"));
    field.placeholder = say("libraryText");
    if (typeof by === "string") field.value = by;
    field.onchange = () => change("", () => field.value.trim() || null);
    return field;
  }

  function tagChoice() {
    const list = make("select", { id: "library-tag", "aria-label": say("libraryTag") });
    list.append(make("option", { value: "" }, say("anyTag")), ...tags.map((one) => make("option", { value: one }, one)));
    list.value = tag;
    list.onchange = () => {
      tag = list.value;
      start = 0;
      void attempt(search);
    };
    return list;
  }

  const update = () => (place.hidden = !wanted());
  editing.addEventListener("change", update);
  update();
  build();
  void attempt(search);
  return build;
}

/** The page: its parts, made and joined. */

import { fetchBlob, get } from "./api.js";
import { Editing, emptyDoc, randomSeed } from "./doc.js";
import { attempt, button, byId, complain, drawIcons, make, tell } from "./dom.js";
import { showExemplars } from "./exemplars.js";
import { browse } from "./folder.js";
import { Intake } from "./intake.js";
import { listenToKeys, showKeys } from "./keys.js";
import { showLibrary } from "./library.js";
import { equal } from "./mask.js";
import { Pointer } from "./pointer.js";
import { Progress } from "./progress.js";
import { MaskActions, chooseRegion, showRegions } from "./regions.js";
import { Results } from "./results.js";
import { Runs } from "./runs.js";
import { keepSession, lastSession } from "./session.js";
import { SettingsPanel } from "./settings.js";
import { showWhatIsShown } from "./showing.js";
import { Stage } from "./stage.js";
import { StructureMap } from "./structure.js";
import { missing } from "./submission.js";
import { openSweep } from "./sweep.js";
import { followTheme } from "./theme.js";
import { TOOLS } from "./tools.js";
import { warnOfThinStrokes } from "./warning.js";
import { say, switchLanguage, translate } from "./words.js";

/** Everything, in order. */
async function begin() {
  drawIcons();
  translate();
  followTheme(byId("theme"));
  byId("help").onclick = showKeys;
  const [about, models] = await Promise.all([get("/api/server"), get("/api/models")]);

  const editing = new Editing(emptyDoc());
  const stage = new Stage(byId("stage"), editing);
  const pointer = new Pointer(stage);
  const masks = new MaskActions(editing);
  const intake = new Intake(editing, masks, about.limits.pixels, models);
  /** @type {StructureMap} */
  const map = new StructureMap(stage, () => settings.model);
  const settings = new SettingsPanel(editing, models, about, map, () => attempt(() => intake.chooseSketch()));
  const runs = new Runs();
  const progress = new Progress(runs);
  const results = new Results(runs, stage);
  const showing = showWhatIsShown(stage, results);
  const rebuildExemplars = showExemplars(editing, () => attempt(() => intake.chooseExemplar()));
  const rebuildRegions = showRegions(editing, masks, () => settings.model.kind === "exemplar");
  const rebuildTools = showTools(pointer);
  const rebuildLibrary = showLibrary(
    editing,
    about.library,
    () => settings.model.kind === "exemplar",
    (blob, name) => intake.exemplar(blob, name),
  );
  warnOfThinStrokes(editing, () => settings.model);

  const undo = () => moved("undone", editing.undo());
  const redo = () => moved("redone", editing.redo());
  /** @param {string} key @param {string | null} what */
  const moved = (key, what) => {
    if (what) tell(say(key, { what: say(what, {}).replace(/[:：].*$/, "") }));
  };

  /** @param {Partial<import("./doc.js").Settings>} [changed] @param {string | null} [group] */
  async function run(changed = {}, group = null) {
    const lacking = missing(editing.doc, settings.model);
    if (lacking) throw new Error(lacking);
    const doc = { ...editing.doc, settings: { ...editing.doc.settings, ...changed } };
    const started = await runs.start(doc, settings.model, group);
    stage.show(null);
    return started;
  }
  const paint = () =>
    attempt(async () => {
      if (runs.sending) return;
      const { settings: before } = editing.doc;
      if (!before.locked && runs.list.some((one) => one.seeds[0] === before.seed)) {
        editing.set({ ...editing.doc, settings: { ...before, seed: randomSeed() } });
      }
      await run();
    });

  runs.addEventListener("error", (event) => complain(/** @type {CustomEvent} */ (event).detail));
  runs.addEventListener("preview", (event) => {
    const { run: one, live } = /** @type {CustomEvent} */ (event).detail;
    if (stage.shown || pointer.doing === "draw" || !sameWork(one, editing.doc)) return;
    stage.preview = live.preview.canvas;
    stage.draw();
  });
  runs.addEventListener("done", () => {
    if (settings.model.steps === null) void attempt(() => settings.refresh());
    stage.preview = null;
    stage.draw();
  });

  byId("run").onclick = paint;
  byId("sweep").onclick = () =>
    openSweep(
      runs,
      (guidance, group) => run({ guidance }, group),
      (one, result) => attempt(() => results.choose({ run: one, result })),
    );
  byId("open-source").onclick = () => attempt(() => intake.chooseSource());
  byId("welcome-open").onclick = () => attempt(() => intake.chooseSource());
  byId("welcome-example").onclick = () => attempt(() => intake.example());
  byId("add-exemplar").onclick = () => attempt(() => intake.chooseExemplar());
  byId("load-settings").onclick = () => attempt(() => intake.chooseSettings());
  byId("undo").onclick = undo;
  byId("redo").onclick = redo;
  byId("warning-grow").onclick = () => masks.grow(1);
  byId("language").onclick = () => {
    switchLanguage();
    for (const rebuild of [rebuildTools, rebuildExemplars, rebuildRegions, rebuildLibrary]) rebuild();
    settings.build();
    results.rebuild();
    progress.rebuild();
  };
  /** @type {unknown} */
  let source = null;
  const update = () => {
    if (editing.doc.source !== source && editing.doc.source) pointer.suit(editing.doc.source);
    source = editing.doc.source;
    byId("undo").toggleAttribute("disabled", !editing.past.length);
    byId("redo").toggleAttribute("disabled", !editing.future.length);
    byId("run").dataset.ready = String(!missing(editing.doc, settings.model));
  };
  editing.addEventListener("change", update);
  update();

  const roots = /** @type {("input" | "output")[]} */ ([about.input && "input", about.output && "output"].filter(Boolean));
  if (roots.length) {
    byId("browse").hidden = byId("browse-exemplar").hidden = false;
    byId("browse").onclick = () => browse(roots, (blob, name) => intake.source(blob, name));
    byId("browse-exemplar").onclick = () => browse(roots, (blob, name) => intake.exemplar(blob, name));
  }

  listenToKeys(pointer, {
    undo,
    redo,
    run: paint,
    cancel: () => {
      if (pointer.stroke || stage.outline) pointer.cancel();
      else for (const one of runs.active().slice(0, 1)) void attempt(() => runs.cancel(one));
    },
    hold: showing.hold,
    mask: showing.mask,
    result: showing.result,
    split: showing.split,
    next: (by) => results.next(by),
    region: (number) => chooseRegion(editing, number),
    invert: () => masks.invert(),
    clear: () => masks.clear(),
    zoom: showing.zoom,
  });

  await resume(editing, runs, intake, about);
  document.body.dataset.ready = "true";
}

/**
 * Go on where the page was left, or begin with the picture that the server was started with.
 *
 * @param {Editing} editing
 * @param {Runs} runs
 * @param {Intake} intake
 * @param {{input: {kind: string, picture: string | null} | null}} about
 */
async function resume(editing, runs, intake, about) {
  for (const step of [async () => editing.set((await lastSession()) ?? editing.doc), () => runs.open()]) {
    try {
      await step();
    } catch (error) {
      tell(say("unsaved", { error: String(error) }), true);
    }
  }
  keepSession(editing);
  const picture = about.input?.picture;
  if (picture) await attempt(() => beginWith(picture, editing, intake));
}

/**
 * Open the picture that the server was started with, unless it was opened before and worked on since.
 *
 * @param {string} picture
 * @param {Editing} editing
 * @param {Intake} intake
 */
async function beginWith(picture, editing, intake) {
  const mark = JSON.stringify((await get("/api/files?root=input")).entries);
  if (editing.doc.source && localStorage.getItem("pbe-input") === mark) return;
  const blob = await fetchBlob(`/api/files/picture?${new URLSearchParams({ root: "input", path: picture })}`);
  await intake.source(blob, picture.split("/").pop() ?? picture);
  localStorage.setItem("pbe-input", mark);
}

/**
 * @param {import("./runs.js").Run} run
 * @param {import("./doc.js").Doc} doc
 * @returns {boolean} whether the document's source and masks are still those that the run paints
 */
function sameWork(run, doc) {
  const { source, regions } = run.doc;
  if (source !== doc.source?.id || regions.length !== doc.regions.length) return false;
  return regions.every((region, index) => equal(region.mask, doc.regions[index].mask));
}

/**
 * @param {Pointer} pointer
 * @returns {() => void} makes the buttons anew
 */
function showTools(pointer) {
  const place = byId("tools");
  function build() {
    const buttons = TOOLS.map((tool) => {
      const made = button(null, () => pointer.choose(tool), { icon: tool, title: say(tool), id: `tool-${tool}` });
      made.setAttribute("aria-pressed", String(tool === pointer.tool));
      return made;
    });
    const slider = make("input", { type: "range", min: 2, max: 300, id: "size", "aria-label": say("brushSize") });
    slider.value = String(pointer.size);
    slider.oninput = () => pointer.resize(Number(slider.value));
    const shown = make("output", { id: "size-shown" }, String(pointer.size));
    place.replaceChildren(...buttons, make("div", { className: "size", title: say("brushSize") }, slider, shown));
  }
  pointer.addEventListener("tool", () => {
    for (const tool of TOOLS) byId(`tool-${tool}`).setAttribute("aria-pressed", String(tool === pointer.tool));
  });
  pointer.addEventListener("size", () => {
    const slider = /** @type {HTMLInputElement} */ (byId("size"));
    slider.max = String(Math.max(100, Math.round(pointer.most / 3)));
    slider.value = String(pointer.size);
    byId("size-shown").textContent = String(pointer.size);
  });
  build();
  return build;
}

begin().catch(complain);

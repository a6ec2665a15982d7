/** A sweep: the same seeds with several λ, as a grid. */

import { attempt, button, make, openDialog } from "./dom.js";
import { newId } from "./doc.js";
import { say } from "./words.js";

/** @typedef {import("./runs.js").Runs} Runs */

const VALUES = [1, 3, 5, 8];

/**
 * @param {string} text
 * @returns {number[]}
 */
export function readValues(text) {
  const values = text.trim().split(/[\s;，、]+/).map(Number);
  const unique = [...new Set(values)];
  const good = unique.length > 1 && unique.length <= 12 && unique.every((value) => Math.abs(value) <= 100);
  if (!good) throw new Error(say("sweepBad"));
  return unique;
}

/**
 * @param {Runs} runs
 * @param {(guidance: number, group: string) => Promise<unknown>} start
 * @param {(run: import("./runs.js").Run, result: import("./runs.js").Kept) => void} choose
 */
export function openSweep(runs, start, choose) {
  const field = make("input", { type: "text", value: VALUES.join(" "), id: "sweep-values" });
  const grid = make("div", { className: "sweep-grid", role: "status" });
  let group = runs.list.find((run) => run.group)?.group ?? null;
  /** @type {string[]} */
  let addresses = [];

  function draw() {
    addresses.forEach((address) => URL.revokeObjectURL(address));
    addresses = [];
    const rows = runs.list.filter((run) => group && run.group === group).sort((a, b) => Number(a.guidance) - Number(b.guidance));
    if (!rows.length) return grid.replaceChildren();
    const seeds = rows[0].seeds;
    const head = make("tr", {}, make("th", {}, "λ"), ...seeds.map((seed) => make("th", {}, String(seed))));
    const lines = rows.map((run) => {
      const cells = run.results.map((result) => {
        const address = URL.createObjectURL(result.thumb);
        addresses.push(address);
        const title = say("resultName", { guidance: Number(run.guidance), seed: result.seed });
        const made = button(null, () => (dialog.close(), choose(run, result)), { title });
        made.append(make("img", { src: address, alt: "" }));
        return make("td", {}, made);
      });
      const waiting = cells.length ? [] : [make("td", {}, "…")];
      return make("tr", {}, make("th", {}, String(run.guidance)), ...cells, ...waiting);
    });
    grid.replaceChildren(make("table", {}, head, ...lines));
  }

  const begin = () =>
    attempt(async () => {
      const values = readValues(field.value);
      group = newId();
      for (const value of values) await start(value, group);
    });

  const label = make("label", { for: field.id }, say("sweepValues"));
  const dialog = openDialog(
    say("sweepTitle"),
    [make("p", { className: "quiet" }, say("sweepHelp")), make("div", { className: "field" }, label, field), grid],
    [
      button(say("close"), () => dialog.close()),
      button(say("run"), begin, { className: "primary", id: "sweep-run" }),
    ],
    "wide",
  );
  runs.addEventListener("change", draw);
  dialog.addEventListener("close", () => runs.removeEventListener("change", draw));
  draw();
}

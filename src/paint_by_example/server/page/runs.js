/** Runs: edits that were sent, from the queue to their results, and their history. */

import { cancelEdit, fetchBlob, follow, get, makeEdit } from "./api.js";
import { thumbnail } from "./pictures.js";
import { Preview } from "./preview.js";
import { forgetPictures, keepPictures, packed, unpacked } from "./session.js";
import { all, drop, put } from "./storage.js";
import { seedsOf, submission } from "./submission.js";
import { say } from "./words.js";

/**
 * @typedef {import("./doc.js").Doc} Doc
 * @typedef {import("./api.js").Edit} Edit
 * @typedef {import("./api.js").Model} Model
 */

/** @typedef {{index: number, seed: number, blob: Blob, thumb: Blob, record: any, flagged: boolean | null}} Kept */

/**
 * @typedef {object} Run
 * @property {string} id of the edit
 * @property {string} name
 * @property {number} created ms
 * @property {string | null} group of a sweep
 * @property {Edit["state"]} state
 * @property {string} model
 * @property {number | null} guidance null: the model has none
 * @property {number[]} seeds
 * @property {import("./session.js").Packed} doc what was sent
 * @property {Kept[]} results
 */

/**
 * @typedef {object} Live What is known of a run under way.
 * @property {Edit | null} edit
 * @property {string[]} looks a small picture of each candidate
 * @property {Preview | null} preview
 * @property {boolean} heard its events are listened to
 * @property {boolean} ended
 */

const THUMB = 264;
const STREAMS = 2; // a browser opens six connections to a server, for all its pages; a stream of events keeps one
const ASK_MS = 1500;

/** Sends "change" for whatever changes, "preview" for a new look, "error" with what went wrong, "done" with a run. */
export class Runs extends EventTarget {
  constructor() {
    super();
    /** @type {Run[]} newest first */
    this.list = [];
    /** @type {Map<string, Live>} by run */
    this.live = new Map();
    this.sending = 0;
    this.asking = 0;
    this.complained = false;
  }

  /** Read the history, and go on with what was under way. */
  async open() {
    this.list = (await all("runs")).sort((a, b) => b.created - a.created);
    await forgetPictures(this.list.map((run) => run.doc));
    for (const run of this.list.filter(underWay)) {
      try {
        this.#follow(run, await unpacked(run.doc));
      } catch {
        void this.#end(run, null); // its pictures are gone
      }
    }
    this.#changed();
  }

  /**
   * @param {Doc} doc with nothing missing
   * @param {Model} model
   * @param {string | null} [group]
   * @returns {Promise<Run>}
   */
  async start(doc, model, group = null) {
    this.sending++;
    this.#changed();
    try {
      const edit = await makeEdit(await submission(doc, model));
      /** @type {Run} */
      const run = {
        id: edit.id,
        name: edit.name,
        created: Date.now(),
        group,
        state: edit.state,
        model: model.name,
        guidance: model.kind === "erase" ? null : doc.settings.guidance,
        seeds: seedsOf(doc),
        doc: packed(doc),
        results: [],
      };
      this.list.unshift(run);
      this.#follow(run, doc, edit);
      await this.#keep(run, doc);
      return run;
    } finally {
      this.sending--;
      this.#changed();
    }
  }

  /** @returns {Run[]} those that wait or run, the first to end first */
  active() {
    return this.list.filter(underWay).reverse();
  }

  /** @param {Run} run */
  async cancel(run) {
    this.#stands(run, await cancelEdit(run.id));
  }

  /**
   * Remove one result, and the run with its last one.
   *
   * @param {Run} run
   * @param {Kept} result
   */
  async remove(run, result) {
    run.results = run.results.filter((one) => one !== result);
    if (run.results.length) await this.#keep(run);
    else await this.#forget(run);
    this.#changed();
  }

  /** @param {Run} run */
  async #forget(run) {
    this.list = this.list.filter((one) => one !== run);
    await drop("runs", run.id);
  }

  /**
   * @param {Run} run
   * @param {Doc} doc
   * @param {Edit | null} [edit]
   */
  #follow(run, doc, edit = null) {
    /** @type {Live} */
    this.live.set(run.id, { edit, looks: [], preview: new Preview(doc), heard: false, ended: false });
    this.#listen();
  }

  /** Listen to the runs that end first, and ask about the others now and then. */
  #listen() {
    for (const run of this.active().slice(0, STREAMS)) {
      const live = this.live.get(run.id);
      if (!live || live.heard) continue;
      live.heard = true;
      follow(run.id, {
        state: (now) => this.#stands(run, now),
        step: (step) => {
          if (live.edit) Object.assign(live.edit, step);
          this.#changed();
        },
        preview: async (preview) => {
          live.looks = preview.pictures;
          await live.preview?.paint(preview);
          if (underWay(run)) this.dispatchEvent(new CustomEvent("preview", { detail: { run, live } }));
        },
        lost: () => void this.#end(run, null),
      });
    }
    if (this.active().length > STREAMS) this.asking ||= setTimeout(() => this.#ask(), ASK_MS);
  }

  async #ask() {
    for (const run of this.active().slice(STREAMS)) {
      try {
        this.#stands(run, await get(`/api/edits/${run.id}`));
      } catch (error) {
        if (/** @type {any} */ (error).status === 404) void this.#end(run, null);
      }
    }
    this.asking = 0;
    this.#listen();
  }

  /**
   * @param {Run} run
   * @param {Edit} edit how it stands
   */
  #stands(run, edit) {
    const live = this.live.get(run.id);
    if (!live || live.ended) return;
    live.edit = edit;
    if (edit.state !== "queued" && edit.state !== "running") return void this.#end(run, edit);
    run.state = edit.state;
    this.#changed();
  }

  /**
   * @param {Run} run
   * @param {Edit | null} edit null: the server knows it no more
   */
  async #end(run, edit) {
    const live = this.live.get(run.id);
    if (!underWay(run) || live?.ended) return;
    if (live) live.ended = true;
    try {
      const results = edit?.state === "done" ? await Promise.all(edit.results.map(keepResult)) : [];
      run.state = edit?.state ?? "interrupted";
      run.results = results;
    } catch (error) {
      run.state = "failed";
      this.#complain(error);
    }
    this.live.delete(run.id);
    this.#listen();
    if (run.results.length) await this.#keep(run);
    else await this.#forget(run).catch(() => undefined);
    if (run.state === "failed" && edit?.error) this.#complain(say("failed", { error: edit.error }));
    if (run.state === "interrupted") this.#complain(say("interrupted"));
    this.#changed();
    this.dispatchEvent(new CustomEvent("done", { detail: run }));
  }

  /**
   * @param {Run} run
   * @param {Doc} [doc] whose pictures are kept with it
   */
  async #keep(run, doc) {
    try {
      if (doc) await keepPictures(doc);
      await put("runs", run);
    } catch (error) {
      if (!this.complained) this.#complain(say("unsaved", { error: String(error) }));
      this.complained = true;
    }
  }

  /** @param {unknown} error */
  #complain(error) {
    this.dispatchEvent(new CustomEvent("error", { detail: error }));
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

/** @param {Run} run */
export function underWay(run) {
  return run.state === "queued" || run.state === "running";
}

/**
 * @param {import("./api.js").Result} result
 * @returns {Promise<Kept>}
 */
async function keepResult({ index, seed, url, record, flagged, boxes }) {
  const blob = await fetchBlob(url);
  return { index, seed, blob, thumb: await thumbnail(blob, THUMB, boxes), record, flagged };
}

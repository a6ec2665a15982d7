/** The server, in this page's words. See docs/http-api.md. */

import { say } from "./words.js";

/**
 * @typedef {object} Result
 * @property {number} index
 * @property {number} seed
 * @property {string} url
 * @property {number} width
 * @property {number} height
 * @property {boolean | null} flagged
 * @property {[number, number, number, number][]} boxes that were painted
 * @property {Record<string, any> | null} record
 */

/**
 * @typedef {object} Edit
 * @property {string} id
 * @property {"queued" | "running" | "done" | "failed" | "cancelled" | "interrupted"} state
 * @property {number | null} place
 * @property {string} model
 * @property {string} name
 * @property {number} created
 * @property {number} step
 * @property {number} steps
 * @property {number | null} seconds_left
 * @property {string | null} error
 * @property {Result[]} results
 */

/** @typedef {{name: string, kind: "exemplar" | "erase" | "prompt" | "instruct", image_size: number | null, steps: number | null, scheduler: string | null, takes: string[] | null, loaded: boolean}} Model */

/** What the server answered instead of doing it: one line. */
export class Refused extends Error {
  /**
   * @param {string} message
   * @param {number} status
   */
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/**
 * @param {string} path
 * @param {RequestInit} [request]
 * @returns {Promise<Response>}
 */
export async function ask(path, request) {
  let answer;
  try {
    answer = await fetch(path, request);
  } catch {
    throw new Refused(say("noServer"), 0);
  }
  if (answer.ok) return answer;
  let message = `${answer.status} ${answer.statusText}`;
  try {
    message = (await answer.json()).error ?? message;
  } catch {
    // not the server's own answer: a proxy's, say
  }
  const wait = answer.headers.get("Retry-After");
  if (answer.status === 503 && wait) message += ` ${say("againIn", { seconds: wait })}`;
  throw new Refused(message, answer.status);
}

/**
 * @param {string} path
 * @returns {Promise<any>}
 */
export async function get(path) {
  return (await ask(path)).json();
}

/**
 * @param {FormData} form
 * @returns {Promise<Edit>}
 */
export async function makeEdit(form) {
  return (await ask("/api/edits", { method: "POST", body: form })).json();
}

/**
 * @param {string} id
 * @returns {Promise<Edit>}
 */
export async function cancelEdit(id) {
  return (await ask(`/api/edits/${id}/cancel`, { method: "POST" })).json();
}

/**
 * @param {Blob} blob a PNG file
 * @param {string} name
 * @returns {Promise<Record<string, any>>} how it was made
 */
export async function readRecord(blob, name) {
  const form = new FormData();
  form.append("picture", blob, name);
  return (await ask("/api/record", { method: "POST", body: form })).json();
}

/**
 * @param {string} url
 * @returns {Promise<Blob>}
 */
export async function fetchBlob(url) {
  return (await ask(url)).blob();
}

/** @typedef {{step: number, steps: number, seconds_left: number | null}} Step */
/** @typedef {{step: number, region: number, box: [number, number, number, number], pictures: string[]}} Preview */

/**
 * Listen to an edit until it has ended.
 *
 * @param {string} id
 * @param {{state: (edit: Edit) => void, step: (step: Step) => void, preview: (preview: Preview) => void, lost: () => void}} on
 */
export function follow(id, on) {
  const stream = new EventSource(`/api/edits/${id}/events`);
  stream.addEventListener("state", (event) => {
    const edit = JSON.parse(event.data);
    if (!["queued", "running"].includes(edit.state)) stream.close();
    on.state(edit);
  });
  stream.addEventListener("step", (event) => on.step(JSON.parse(event.data)));
  stream.addEventListener("preview", (event) => on.preview(JSON.parse(event.data)));
  stream.addEventListener("error", () => {
    if (stream.readyState === EventSource.CLOSED) on.lost(); // otherwise the browser connects again by itself
  });
}

/** Documents as they are stored: pictures apart, by their ids. */

import { DEFAULTS } from "./doc.js";
import { readPicture } from "./pictures.js";
import { drop, holds, ids, put, take } from "./storage.js";
import { say } from "./words.js";

/**
 * @typedef {import("./doc.js").Doc} Doc
 * @typedef {import("./pictures.js").Picture} Picture
 */

/**
 * @typedef {object} Packed
 * @property {string | null} source
 * @property {string | null} [sketch]
 * @property {{id: string, picture: string, turns: number, crop: any}[]} exemplars
 * @property {import("./doc.js").Region[]} regions
 * @property {string} active
 * @property {import("./doc.js").Settings} settings
 */

const CURRENT = "current";
const PAUSE_MS = 600;
/** @type {Map<string, WeakRef<Picture>>} */
const read = new Map();

/** @param {Picture} picture */
export async function keepPicture(picture) {
  read.set(picture.id, new WeakRef(picture));
  if (await holds("pictures", picture.id)) return; // another tab may have forgotten it meanwhile
  await put("pictures", { id: picture.id, name: picture.name, blob: picture.blob });
}

/**
 * @param {string} id
 * @returns {Promise<Picture>}
 */
export async function pictureOf(id) {
  const known = read.get(id)?.deref();
  if (known) return known;
  const found = await take("pictures", id);
  if (!found) throw new Error(say("pictureGone"));
  const picture = await readPicture(found.blob, found.name, id);
  read.set(id, new WeakRef(picture));
  return picture;
}

/**
 * @param {Doc} doc
 * @returns {Packed}
 */
export function packed(doc) {
  return {
    ...doc,
    source: doc.source && doc.source.id,
    sketch: doc.sketch && doc.sketch.id,
    exemplars: doc.exemplars.map(({ id, picture, turns, crop }) => ({ id, picture: picture.id, turns, crop })),
  };
}

/**
 * @param {Packed} plain
 * @returns {Promise<Doc>}
 */
export async function unpacked(plain) {
  return {
    ...plain,
    settings: { ...DEFAULTS, ...plain.settings },
    source: plain.source ? await pictureOf(plain.source) : null,
    sketch: plain.sketch ? await pictureOf(plain.sketch) : null,
    exemplars: await Promise.all(
      plain.exemplars.map(async (exemplar) => ({ ...exemplar, picture: await pictureOf(exemplar.picture) })),
    ),
  };
}

/** @param {Doc} doc */
export async function keepPictures(doc) {
  for (const picture of [doc.source, doc.sketch]) if (picture) await keepPicture(picture);
  for (const { picture } of doc.exemplars) await keepPicture(picture);
}

/**
 * Keep the document as it is whenever it has changed and rests.
 *
 * @param {import("./doc.js").Editing} editing
 */
export function keepSession(editing) {
  let timer = 0;
  const keep = async () => {
    timer = 0;
    try {
      await keepPictures(editing.doc);
      await put("session", { id: CURRENT, ...packed(editing.doc) });
    } catch (error) {
      console.warn("the document could not be stored", error);
    }
  };
  editing.addEventListener("change", () => {
    clearTimeout(timer);
    timer = setTimeout(keep, PAUSE_MS);
  });
  document.addEventListener("visibilitychange", () => {
    if (!timer || document.visibilityState !== "hidden") return;
    clearTimeout(timer);
    void keep();
  });
}

/** @returns {Promise<Doc | null>} the document as it was left */
export async function lastSession() {
  const { id, ...plain } = (await take("session", CURRENT)) ?? { id: null };
  return id ? unpacked(/** @type {Packed} */ (plain)) : null;
}

/**
 * Forget pictures that nothing needs.
 *
 * @param {Packed[]} needing
 */
export async function forgetPictures(needing) {
  const session = await take("session", CURRENT);
  const needed = new Set();
  for (const one of session ? [...needing, session] : needing) {
    needed.add(one.source).add(one.sketch);
    for (const { picture } of one.exemplars) needed.add(picture);
  }
  for (const id of await ids("pictures")) if (!needed.has(id)) await drop("pictures", id);
}

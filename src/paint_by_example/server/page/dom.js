/** Elements: finding, making and naming them; icons; messages; dialogs. */

import { say } from "./words.js";

const ICONS = /** @type {Record<string, string>} */ ({
  image: "M4 5h16v14H4z M4 16l5-5 4 4 3-3 4 4 M15.5 9.5h.01",
  folder: "M3 6h6l2 2h10v11H3z",
  record: "M6 3h8l4 4v14H6z M14 3v4h4 M12 11v6 M9 14.5l3 3 3-3",
  undo: "M9 7L4 12l5 5 M4 12h10a5 5 0 0 1 5 5v1",
  redo: "M15 7l5 5-5 5 M20 12H10a5 5 0 0 0-5 5v1",
  theme: "M12 3a9 9 0 1 0 9 9 7 7 0 0 1-9-9z",
  help: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18z M9.5 9.5a2.5 2.5 0 1 1 3.6 2.2c-.8.4-1.1 1-1.1 1.8 M12 16.8h.01",
  spark: "M12 3l2 6.5L20.5 12 14 14l-2 7-2-7-6.500-2L10 9.500z",
  plus: "M12 5v14 M5 12h14",
  minus: "M5 12h14",
  fit: "M4 9V4h5 M20 9V4h-5 M4 15v5h5 M20 15v5h-5",
  eye: "M2.500 12S6 5.500 12 5.500 21.500 12 21.500 12 18 18.500 12 18.500 2.500 12 2.500 12z M12 14.500a2.500 2.500 0 1 0 0-5 2.500 2.500 0 0 0 0 5z",
  grid: "M4 4h7v7H4z M13 4h7v7h-7z M4 13h7v7H4z M13 13h7v7h-7z",
  brush: "M20 4c-5 3-8 6-10 9l2.500 2.500C15 13 18 9 20 4z M9.500 14c-3 0-3.500 2.500-3.500 4-.5 1-1.500 1.500-2.500 1.500 1.500 1.500 8 1.500 8.500-3z",
  eraser: "M8 20h12 M4 14.500L13.500 5l6 6L11 19.500H8.500z M9 9.500l6 6",
  box: "M5 5h14v14H5z",
  lasso: "M12 15c-5 0-8.500-2-8.500-5S7 4.500 12 4.500s8.500 2.500 8.500 5.500-3.500 5-8.500 5z M9 14.800c-1.500 1-2 3.500 0 4.500s3-1 1.500-2.500",
  polygon: "M12 3.500l8.500 6.500-3.500 10H7L3.500 10z",
  hand: "M8 13V6.500a1.500 1.500 0 0 1 3 0V11 M11 11V5a1.500 1.500 0 0 1 3 0v6 M14 11V6.500a1.500 1.500 0 0 1 3 0V14a6.500 6.500 0 0 1-12 3.500L3.500 14a1.600 1.600 0 0 1 2.700-1.700L8 14",
  close: "M6 6l12 12 M18 6L6 18",
  crop: "M7 2v15h15 M2 7h15v15",
  lock: "M6 11h12v9H6z M8.500 11V8a3.500 3.500 0 0 1 7 0v3",
  dice: "M5 5h14v14H5z M9 9h.01 M15 9h.01 M12 12h.01 M9 15h.01 M15 15h.01",
  save: "M12 4v11 M7 10.500l5 5 5-5 M5 20h14",
  similar: "M4 4h9v9H4z M16 11h4v9h-9v-4",
  left: "M4 4v6h6 M4.500 10A8 8 0 1 1 4 13.500",
  right: "M20 4v6h-6 M19.500 10A8 8 0 1 0 20 13.500",
});

/**
 * @template {HTMLElement} [T=HTMLElement]
 * @param {string} id
 * @returns {T}
 */
export function byId(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the page has no #${id}`);
  return /** @type {T} */ (element);
}

/**
 * @param {string} name
 * @returns {SVGSVGElement}
 */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** Put icons into the elements that name one. */
export function drawIcons() {
  for (const element of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-icon]"))) {
    if (element.querySelector("svg")) continue;
    const parts = [icon(element.dataset.icon ?? "")];
    if (element.dataset.say) element.append(...parts, document.createElement("span"));
    else element.prepend(...parts);
  }
}

/**
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Record<string, any>} [properties]
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("aria-") || name === "role" || name === "for") element.setAttribute(name, String(value));
    else /** @type {any} */ (element)[name] = value;
  }
  element.append(...children);
  return element;
}

/**
 * @param {string | null} text shown; null: only the icon
 * @param {(event: MouseEvent) => void} act
 * @param {{icon?: string, title?: string, className?: string, id?: string}} [rest]
 * @returns {HTMLButtonElement}
 */
export function button(text, act, rest = {}) {
  const made = make("button", { type: "button", className: rest.className ?? "", onclick: act });
  if (rest.id) made.id = rest.id;
  if (rest.icon) made.append(icon(rest.icon));
  if (text !== null) made.append(text);
  if (rest.title) {
    made.title = rest.title;
    if (text === null) made.setAttribute("aria-label", rest.title);
  }
  return made;
}

/**
 * @param {string} text one line
 * @param {boolean} [bad] it stays until it is closed
 */
export function tell(text, bad = false) {
  const place = byId(bad ? "alerts" : "messages");
  const message = make("div", { className: bad ? "message bad" : "message" }, make("span", {}, text));
  const close = button(null, () => message.remove(), { icon: "close", title: say("close") });
  message.append(close);
  for (const one of [...place.children]) if (one.textContent === text) one.remove(); // it is said once
  place.append(message);
  while (place.children.length > (bad ? 3 : 1)) place.firstElementChild?.remove();
  if (!bad) setTimeout(() => message.remove(), 3500);
}

/** @param {unknown} error */
export function complain(error) {
  tell(error instanceof Error ? error.message : String(error), true);
}

/**
 * Do something; what goes wrong is told in one line.
 *
 * @param {() => unknown} act
 * @returns {Promise<void>}
 */
export async function attempt(act) {
  try {
    await act();
  } catch (error) {
    complain(error);
  }
}

/**
 * @param {string} title
 * @param {(Node | string)[]} content
 * @param {HTMLElement[]} buttons
 * @param {string} [className]
 * @returns {HTMLDialogElement} shown; removed when it closes
 */
export function openDialog(title, content, buttons, className = "") {
  const heading = make("h2", { id: "dialog-title" }, title);
  const dialog = make("dialog", { className, "aria-labelledby": "dialog-title" }, heading, ...content);
  dialog.append(make("menu", {}, ...buttons));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/**
 * @param {string} [accept]
 * @returns {Promise<File | null>}
 */
export function chooseFile(accept = "image/*") {
  const input = byId("file");
  const field = /** @type {HTMLInputElement} */ (input);
  field.accept = accept;
  field.value = "";
  return new Promise((resolve) => {
    field.onchange = () => resolve(field.files?.[0] ?? null);
    field.oncancel = () => resolve(null);
    field.click();
  });
}

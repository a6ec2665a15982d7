/** The words of the page, in the language that was chosen. */

import english from "./words-en.js";
import chinese from "./words-zh.js";

/** @type {Record<string, Record<string, string>>} */
const LANGUAGES = { en: english, zh: chinese };

let language = localStorage.getItem("pbe-language") ?? (navigator.language.startsWith("zh") ? "zh" : "en");
if (!(language in LANGUAGES)) language = "en";

/**
 * @param {string} key
 * @param {Record<string, string | number>} [values] for the places in braces
 * @returns {string}
 */
export function say(key, values = {}) {
  const text = LANGUAGES[language][key] ?? key;
  return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ""));
}

/** Set the words of every element that names one. */
export function translate() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const element of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-say]"))) {
    const text = say(element.dataset.say ?? "");
    const span = element.querySelector("span");
    if (span) span.textContent = text;
    else element.textContent = text;
  }
  for (const element of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-title]"))) {
    element.title = say(element.dataset.title ?? "");
    element.setAttribute("aria-label", element.title);
  }
  for (const element of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-label]"))) {
    element.setAttribute("aria-label", say(element.dataset.label ?? ""));
  }
  const other = document.querySelector("#language");
  if (other) other.textContent = language === "zh" ? "EN" : "中文";
}

/** Take the other language. */
export function switchLanguage() {
  language = language === "zh" ? "en" : "zh";
  localStorage.setItem("pbe-language", language);
  translate();
}

/** Light or dark: as the system has it, until it is chosen here. */

const KEY = "pbe-theme";

/** @param {HTMLElement} button that takes the other one */
export function followTheme(button) {
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    document.documentElement.dataset.theme = localStorage.getItem(KEY) ?? (system.matches ? "dark" : "light");
  };
  system.addEventListener("change", apply);
  button.onclick = () => {
    localStorage.setItem(KEY, document.documentElement.dataset.theme === "dark" ? "light" : "dark");
    apply();
  };
  apply();
}

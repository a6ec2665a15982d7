/** The dialog to choose a picture from the server's folders. */

import { fetchBlob, get } from "./api.js";
import { attempt, button, icon, make, openDialog } from "./dom.js";
import { say } from "./words.js";

/**
 * @param {("input" | "output")[]} roots that the server was given
 * @param {(blob: Blob, name: string) => unknown} take
 */
export function browse(roots, take) {
  const list = make("div", { className: "files" });
  const where = make("p", { className: "quiet", role: "status" });
  let [root] = roots;
  let folder = "";

  /** @param {string} to */
  const open = (to) =>
    attempt(async () => {
      const query = new URLSearchParams({ root, folder: to });
      const { entries } = await get(`/api/files?${query}`);
      folder = to;
      where.textContent = `${say(root === "input" ? "rootInput" : "rootOutput")} / ${folder}`;
      list.replaceChildren(...entries.map(entry));
      if (!entries.length) list.append(make("p", { className: "quiet" }, say("emptyFolder")));
      up.disabled = !folder;
      choices.forEach((choice, at) => choice.setAttribute("aria-pressed", String(roots[at] === root)));
    });

  /** @param {{name: string, kind: "folder" | "picture"}} one */
  function entry({ name, kind }) {
    const path = folder ? `${folder}/${name}` : name;
    if (kind === "folder") {
      const made = button(null, () => open(path), { title: name });
      made.append(icon("folder"), name);
      return made;
    }
    const query = new URLSearchParams({ root, path });
    const made = button(
      null,
      () =>
        attempt(async () => {
          const blob = await fetchBlob(`/api/files/picture?${query}`);
          dialog.close();
          await take(blob, name);
        }),
      { title: name },
    );
    made.append(make("img", { src: `/api/files/picture?${query}&size=192`, alt: "", loading: "lazy" }), name);
    return made;
  }

  const up = button(say("up"), () => open(folder.split("/").slice(0, -1).join("/")));
  const choices = roots.map((one) =>
    button(say(one === "input" ? "rootInput" : "rootOutput"), () => {
      root = one;
      void open("");
    }),
  );
  const dialog = openDialog(
    say("folder"),
    [where, list],
    [...(roots.length > 1 ? choices : []), up, button(say("close"), () => dialog.close())],
    "wide",
  );
  void open("");
}

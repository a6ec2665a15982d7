/** The keyboard: what each key does, and the list of it. */

import { button, make, openDialog } from "./dom.js";
import { say } from "./words.js";

/** What the list shows: keys, and words. */
const LIST = [
  ["B E X L P H", "keyTools"],
  ["[ ]", "keySize"],
  ["+ −", "keyZoom"],
  ["0", "keyFit"],
  ["Space", "keyPan"],
  ["Alt", "keyErase"],
  ["O", "keyHold"],
  ["M R S", "keyShow"],
  [", .", "keyNext"],
  ["1 … 9", "keyRegion"],
  ["I", "keyInvert"],
  ["Delete", "keyClear"],
  ["Ctrl Z", "undo"],
  ["Ctrl Y", "redo"],
  ["Ctrl Enter", "keyRun"],
  ["Esc", "keyEscape"],
  ["?", "keyHelp"],
];

const TOOL_KEYS = /** @type {Record<string, import("./tools.js").ToolName>} */ ({
  b: "brush",
  e: "eraser",
  x: "box",
  l: "lasso",
  p: "polygon",
  h: "hand",
});

/** Show the list. */
export function showKeys() {
  const lines = LIST.map(([keys, word]) => {
    const caps = make("span", {}, ...keys.split(" ").flatMap((key) => [make("kbd", {}, key), " "]));
    return make("div", {}, make("span", {}, say(word)), caps);
  });
  const dialog = openDialog(
    say("keys"),
    [make("div", { className: "keys" }, ...lines), make("p", { className: "quiet" }, say("keysNote"))],
    [button(say("close"), () => dialog.close(), { className: "primary" })],
  );
}

/**
 * @typedef {object} Actions
 * @property {() => void} undo
 * @property {() => void} redo
 * @property {() => void} run
 * @property {() => void} cancel
 * @property {(held: boolean) => void} hold
 * @property {() => void} mask
 * @property {() => void} result
 * @property {() => void} split
 * @property {(by: number) => void} next
 * @property {(number: number) => void} region
 * @property {() => void} invert
 * @property {() => void} clear
 * @property {(factor: number) => void} zoom
 */

/**
 * @param {import("./pointer.js").Pointer} pointer
 * @param {Actions} act
 */
export function listenToKeys(pointer, act) {
  const { stage } = pointer;
  const cursor = new KeyCursor(pointer);
  document.addEventListener("keydown", (event) => {
    const target = /** @type {HTMLElement} */ (event.target);
    if (document.querySelector("dialog[open]")) return;
    if (event.ctrlKey || event.metaKey) {
      if (event.key === "Enter") {
        target.dispatchEvent(new Event("change")); // what is being typed counts
        act.run();
      }
      else if (target.matches("input[type=text], input[type=number], textarea")) return;
      else if (event.key.toLowerCase() === "z") event.shiftKey ? act.redo() : act.undo();
      else if (event.key.toLowerCase() === "y") act.redo();
      else return;
      event.preventDefault();
      return;
    }
    if (target.matches("input:not([type=range]), textarea, select")) return;
    const focused = target === stage.frame;
    if (focused && cursor.key(event)) {
      event.preventDefault();
      return;
    }
    if (event.key === " " && (focused || target === document.body)) pointer.space = true;
    else if (!plain(event)) return;
    event.preventDefault();
  });
  document.addEventListener("keyup", (event) => {
    if (event.key === " ") pointer.space = false;
    if (event.key.toLowerCase() === "o") act.hold(false);
  });
  window.addEventListener("blur", () => {
    pointer.space = false;
    act.hold(false);
  });

  /** @param {KeyboardEvent} event */
  function plain(event) {
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const simple = /** @type {Record<string, () => void>} */ ({
      "[": () => pointer.resize(Math.min(pointer.size - 1, pointer.size / 1.15)),
      "]": () => pointer.resize(Math.max(pointer.size + 1, pointer.size * 1.15)),
      "+": () => act.zoom(1.25),
      "=": () => act.zoom(1.25),
      "-": () => act.zoom(0.8),
      0: () => stage.fit(),
      o: () => act.hold(true),
      m: act.mask,
      r: act.result,
      s: act.split,
      ",": () => act.next(-1),
      ".": () => act.next(1),
      i: act.invert,
      Delete: act.clear,
      Escape: act.cancel,
      "?": showKeys,
    });
    if (TOOL_KEYS[key]) pointer.choose(TOOL_KEYS[key]);
    else if (/^[1-9]$/.test(key)) act.region(Number(key) - 1);
    else if (simple[key]) simple[key]();
    else return false;
    return true;
  }
}

/** A cursor that arrow keys move and Enter draws with. */
class KeyCursor {
  /** @param {import("./pointer.js").Pointer} pointer */
  constructor(pointer) {
    this.pointer = pointer;
    /** @type {import("./tools.js").Point | null} */
    this.point = null;
    this.down = false;
  }

  /**
   * @param {KeyboardEvent} event
   * @returns {boolean} whether it was for the cursor
   */
  key(event) {
    const { pointer } = this;
    const { stage } = pointer;
    const picture = stage.current();
    if (!picture) return false;
    this.point ??= { x: picture.width / 2, y: picture.height / 2 };
    const step = (event.shiftKey ? 40 : 4) / stage.view.scale;
    const moves = /** @type {Record<string, [number, number]>} */ ({
      ArrowLeft: [-step, 0],
      ArrowRight: [step, 0],
      ArrowUp: [0, -step],
      ArrowDown: [0, step],
    });
    if (event.key in moves) {
      const [dx, dy] = moves[event.key];
      this.point = {
        x: Math.min(picture.width, Math.max(0, this.point.x + dx)),
        y: Math.min(picture.height, Math.max(0, this.point.y + dy)),
      };
      if (this.down || stage.outline) pointer.drag(this.point);
    } else if (event.key === "Enter") {
      if (pointer.tool === "polygon") pointer.press(this.point, event.altKey);
      else if (this.down && (pointer.stroke || stage.outline)) {
        pointer.release();
        this.down = false;
      } else {
        pointer.press(this.point, event.altKey);
        this.down = true;
      }
    } else if (event.key.toLowerCase() === "c" && pointer.tool === "polygon") {
      pointer.close();
    } else {
      if (event.key === "Escape") this.down = false;
      return false;
    }
    pointer.hover(this.point, true);
    return true;
  }
}

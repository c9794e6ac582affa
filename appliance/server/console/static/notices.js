/** What is told below the messages of a chat. */

import { el } from "./dom.js";
import { words } from "./words.js";

/** What went wrong, and apart from it why no model can be asked: a form for a key stays, whatever else is told. */
export class Notices {
  /** @param {() => void} retry */
  constructor(retry) {
    this.retry = retry;
    this.told = el("div");
    this.wants = el("div");
    this.element = el("div", { className: "sheet", hidden: true }, this.told, this.wants);
  }

  /** @param {string} text */
  tell(text) {
    this.show(this.told, notice(text));
  }

  /** @param {string} text @param {boolean} wantsKey */
  async want(text, wantsKey) {
    const { keyForm } = wantsKey ? await import("./key.js").catch(() => ({ keyForm: null })) : { keyForm: null };
    const again = el("button", { type: "button" }, words.retry);
    again.addEventListener("click", this.retry);
    this.show(this.wants, notice(text), keyForm ? keyForm(this.retry) : again);
  }

  /** @param {boolean} isAll */
  clear(isAll) {
    this.wants.replaceChildren();
    if (isAll) this.told.replaceChildren();
    this.element.hidden = !this.told.firstChild;
  }

  /** @param {HTMLElement} place @param {...Node} parts */
  show(place, ...parts) {
    place.replaceChildren(...parts);
    this.element.hidden = false;
    this.element.scrollIntoView({ block: "nearest" });
  }
}

/** @param {string} text */
function notice(text) {
  return el("p", { className: "notice bad", role: "alert" }, text);
}

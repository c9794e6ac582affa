/** What the views of administration share: their frame, tables, dialogs, and requests with their failures. */

import { Failure, send } from "../api.js";
import { el } from "../dom.js";
import { keyForm } from "../key.js";
import { words } from "../words.js";
import { say } from "./say.js";

/**
 * Return what a route answers.
 * @param {string} path
 * @param {RequestInit & {json?: object}} [options]
 * @returns {Promise<any>}
 */
export async function ask(path, options) {
  return (await send(path, options)).json();
}

/** A view: its title, its body, and a line that tells what happened. */
export class Sheet {
  /** @param {string} title @param {string} help */
  constructor(title, help) {
    this.told = el("div", { role: "status" });
    this.body = el("div");
    this.element = el("div", { className: "sheet" }, el("h1", {}, title), el("p", { className: "soft" }, help), this.told, this.body);
  }

  /** @param {string} text @param {boolean} [isBad] */
  tell(text, isBad = false) {
    this.told.replaceChildren(...(text ? [el("p", { className: isBad ? "notice bad" : "notice" }, text)] : []));
    if (isBad) this.told.scrollIntoView({ block: "nearest" });
  }

  /**
   * Fill the body; where the key does not do, ask for another one.
   * @param {() => Promise<Node[]>} make
   */
  async fill(make) {
    this.body.replaceChildren(el("p", { className: "soft" }, say.loading)); // nothing that could be asked for twice
    try {
      this.body.replaceChildren(...await make());
    } catch (error) {
      const failure = refusal(error);
      const again = el("button", { type: "button" }, words.retry);
      again.addEventListener("click", () => this.fill(make));
      const wantsKey = failure.wantsKey || failure.code === "forbidden";
      this.body.replaceChildren(el("p", { className: "notice bad", role: "alert" }, failure.message),
        ...(wantsKey ? [keyForm(() => this.fill(make)), el("p", { className: "soft" }, say.adminKey)] : [again]));
    }
  }

  /**
   * Return a button whose act is done once at a time, and whose failure is told.
   * @param {string} label
   * @param {() => Promise<string|void>} act returns what to tell when it is done
   * @param {string} [className]
   * @returns {HTMLButtonElement}
   */
  button(label, act, className = "small") {
    const button = el("button", { type: "button", className }, label);
    button.addEventListener("click", () => this.run(button, act));
    return button;
  }

  /**
   * Do an act of this view while its button is disabled.
   * @param {HTMLButtonElement} button
   * @param {() => Promise<string|void>} act
   */
  async run(button, act) {
    if (button.disabled) return;
    button.disabled = true;
    button.setAttribute("aria-busy", "true");
    this.tell("");
    try {
      this.tell(await act() ?? "");
    } catch (error) {
      this.tell(refusal(error).message, true);
    } finally {
      button.disabled = false;
      button.removeAttribute("aria-busy");
    }
  }
}

/** Return a failure that can be told; anything else is a fault of ours and goes on. @param {unknown} error */
export function refusal(error) {
  if (error instanceof Failure) return error;
  throw error;
}

/**
 * Return a table that scrolls sideways where it does not fit.
 * @param {string} name
 * @param {string[]} head
 * @param {(Node|string)[][]} rows
 */
export function table(name, head, rows) {
  if (!rows.length) return el("p", { className: "soft" }, say.none);
  const line = (/** @type {string} */ kind, /** @type {(Node|string)[]} */ cells) =>
    el("tr", {}, ...cells.map((cell) => el(kind, {}, cell)));
  return el("div", { className: "table", tabIndex: 0, role: "region", "aria-label": name },
    el("table", {}, el("caption", { className: "hidden" }, name), el("thead", {}, line("th", head)),
      el("tbody", {}, ...rows.map((row) => line("td", row)))));
}

/** Return terms with their values. @param {[string, Node|string][]} pairs */
export function facts(pairs) {
  return el("dl", { className: "facts" },
    ...pairs.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", { dir: "auto" }, value))));
}

/**
 * Ask a question whose answer may cost something.
 * @param {string} question
 * @param {string} act
 * @returns {Promise<boolean>}
 */
export function confirmed(question, act) {
  return new Promise((resolve) => {
    const yes = el("button", { value: "yes", className: "main danger" }, act);
    const no = el("button", { value: "no" }, say.cancel);
    const dialog = el("dialog", { "aria-label": act }, el("form", { method: "dialog" },
      el("p", { dir: "auto" }, question), el("div", { className: "row end" }, no, yes)));
    dialog.addEventListener("close", () => { resolve(dialog.returnValue === "yes"); dialog.remove(); });
    document.body.append(dialog);
    dialog.showModal();
    no.focus();
  });
}

/** Return a form whose submission is an act of a sheet. @param {Sheet} sheet @param {HTMLButtonElement} button @param {() => Promise<string|void>} act @param {...Node} children */
export function form(sheet, button, act, ...children) {
  const made = el("form", { className: "row fields" }, ...children, button);
  made.addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    sheet.run(button, act);
  });
  return made;
}

/** Elements, made by DOM calls alone: no text ever becomes markup. */

import { words } from "./words.js";

/**
 * Return a new element with these properties and children; a property with a dash becomes an attribute.
 * @param {string} name
 * @param {Record<string, any>} [properties]
 * @param {...(Node|string)} children
 * @returns {any}
 */
export function el(name, properties = {}, ...children) {
  const made = /** @type {any} */ (document.createElement(name));
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-")) made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

/**
 * Return a field below its label.
 * @param {string} label
 * @param {HTMLElement} control
 * @param {string} [className]
 */
export function field(label, control, className = "field") {
  return el("label", { className }, el("span", {}, label), control);
}

/**
 * Put a text on the clipboard; over plain HTTP by a hidden field, since the newer interface is missing there.
 * @param {string} text
 * @returns {Promise<boolean>}
 */
export async function copy(text) {
  if (navigator.clipboard) {
    try { await navigator.clipboard.writeText(text); return true; } catch { /* the older way is left */ }
  }
  const before = /** @type {HTMLElement|null} */ (document.activeElement);
  const hidden = el("textarea", { value: text, className: "hidden", readOnly: true });
  document.body.append(hidden);
  hidden.select();
  const done = document.execCommand("copy");
  hidden.remove();
  before?.focus();
  return done;
}

/**
 * Return a button that copies what `text` returns, and says so.
 * @param {() => string} text
 */
export function copyButton(text) {
  const button = el("button", { type: "button", className: "small" }, words.copy);
  button.addEventListener("click", async () => {
    button.textContent = await copy(text()) ? words.copied : words.copyFailed;
    setTimeout(() => { button.textContent = words.copy; }, 1500);
  });
  return button;
}

/**
 * Return a block of code with its language and a button that copies it.
 * @param {string} language
 * @param {string} text
 */
export function codeBlock(language, text = "") {
  const node = document.createTextNode(text);
  const pre = el("pre", { tabIndex: 0, role: "group", "aria-label": language || words.code }, el("code", {}, node));
  const block = el("div", { className: "code" }, el("div", {}, el("span", {}, language || words.code), copyButton(() => node.data)), pre);
  return { block, node };
}

/** Load a style beside the page's own. @param {URL} address @returns {Promise<any>} */
export function styled({ pathname }) {
  const link = el("link", { rel: "stylesheet", href: pathname });
  return new Promise((resolve) => {
    link.onload = link.onerror = resolve;
    document.head.append(link);
  });
}

/** The arrows between the versions of a message. */

import { el } from "./dom.js";
import { fill, number, words } from "./words.js";

/**
 * Return an arrow to the version before, the place of this one, and an arrow to the one after.
 * @param {import("./history.js").Message[]} siblings
 * @param {import("./history.js").Message} message
 * @param {(message: import("./history.js").Message) => void} choose
 * @returns {HTMLElement[]}
 */
export function arrows(siblings, message, choose) {
  const index = siblings.indexOf(message);
  const arrow = (/** @type {string} */ sign, /** @type {string} */ label, /** @type {number} */ to) => {
    const button = el("button", { type: "button", className: "small arrow", disabled: !siblings[to], "aria-label": label }, sign);
    button.addEventListener("click", () => choose(siblings[to]));
    return button;
  };
  return [arrow("‹", words.versionBefore, index - 1),
    el("span", {}, fill(words.versionOf, { index: number(index + 1), count: number(siblings.length) })), arrow("›", words.versionAfter, index + 1)];
}

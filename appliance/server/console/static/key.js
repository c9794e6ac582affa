/** The form that takes a key. */

import { key, setKey } from "./api.js";
import { el, field } from "./dom.js";
import { first, owner } from "./first/print.js";
import { identity } from "./identity.js";
import { words } from "./words.js";

/**
 * Return a form for the key; `done` is called when there is another.
 * @param {() => void} done
 */
export function keyForm(done) {
  const value = el("input", { type: "password", autocomplete: "off", spellcheck: false, name: "key" });
  const remember = el("input", { type: "checkbox", name: "remember" });
  const wrong = el("p", { className: "notice bad", role: "alert", hidden: true }, first.keyMissing);
  const claimed = el("p", { className: "soft" });
  identity().then((told) => { claimed.textContent = told ? owner(told) : ""; });
  const form = el("form", { className: "key" },
    el("h2", {}, first.keyTitle), el("p", { className: "soft" }, first.keyHelp), claimed, wrong,
    el("div", { className: "row" }, field(words.keyLabel, value), el("button", { className: "main" }, first.useKey)),
    el("label", { className: "tick" }, remember, first.remember));
  form.addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    wrong.hidden = Boolean(value.value.trim());
    if (!value.value.trim()) return value.focus();
    setKey(value.value.trim(), remember.checked);
    done();
  });
  return form;
}

/**
 * Return a line that says that a key is in use and forgets it at a click; nothing without a key.
 * @param {() => void} done
 */
export function keyLine(done) {
  if (!key()) return el("p", { hidden: true });
  const button = el("button", { type: "button", className: "small" }, first.forget);
  button.addEventListener("click", () => { setKey("", false); done(); });
  return el("p", { className: "row" }, first.keyStored, button);
}

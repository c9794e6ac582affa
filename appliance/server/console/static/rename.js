/** The form that gives a chat another name, in the place of its entry in the list. */

import { el } from "./dom.js";
import { words } from "./words.js";

let covered = /** @type {Node[]} */ ([]);

/** Let a chat be renamed; a form for another one gives way. @param {import("./sidebar.js").Sidebar} side @param {import("./history.js").Chat} chat @param {HTMLElement} item */
export function renameIn(side, chat, item) {
  const input = el("input", { value: chat.name, maxLength: 200, dir: "auto", "aria-label": words.newName, name: "rename" });
  const form = el("form", { className: "row" }, input, el("button", { className: "small" }, words.rename));
  const leave = async () => {
    form.remove();
    await side.show(side.current);
    side.search.focus();
  };
  form.addEventListener("submit", async (/** @type {Event} */ event) => {
    event.preventDefault();
    const name = input.value.trim();
    if (name && !await side.store.update(chat.id, { name })) side.told.textContent = words.full;
    await leave();
  });
  input.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    leave();
  });
  side.list.querySelector("form")?.parentElement.replaceChildren(...covered);
  covered = [...item.childNodes];
  item.replaceChildren(form);
  input.select();
}

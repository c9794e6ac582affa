/** The list of kept chats: to open, search, rename and delete, and as a file to take away or bring back. */

import { el } from "./dom.js";
import { newChat } from "./history.js";
import { fill, words } from "./words.js";

/**
 * @typedef {import("./history.js").Chat} Chat
 * @typedef {{open: (chat: Chat, message?: import("./history.js").Message) => void, removed: (id: string) => void}} Acts
 */

/** The list beside the chat. */
export class Sidebar {
  /** @param {import("./store.js").Store} store @param {Acts} acts */
  constructor(store, acts) {
    this.store = store;
    this.acts = acts;
    this.current = "";
    this.list = el("ul", { className: "list" });
    this.search = el("input", { type: "search", name: "search", placeholder: words.search, "aria-label": words.search, dir: "auto" });
    this.told = el("p", { className: "soft", role: "status" });
    this.missing = el("p", { className: "soft", role: "status" });
    const fresh = el("button", { type: "button" }, words.newChat);
    fresh.addEventListener("click", () => acts.open(newChat()));
    this.search.addEventListener("input", () => this.show(this.current));
    this.folded = el("details", { open: matchMedia("(min-width: 48.01rem)").matches }, el("summary", {}, words.chats), this.search, this.missing, this.list, this.told,
      el("div", { className: "row" }, ...this.transfer()), el("p", { className: "soft" }, el("small", {}, words.kept)), shortcuts());
    this.element = el("aside", { className: "chats", "aria-label": words.chats }, fresh, this.folded);
  }

  /** Return the buttons that write and read a file of all chats. */
  transfer() {
    const picker = el("input", { type: "file", accept: ".json,application/json", hidden: true, "aria-label": words.importChats });
    const out = el("button", { type: "button", className: "small" }, words.exportChats);
    const into = el("button", { type: "button", className: "small" }, words.importChats);
    const tell = (/** @type {string} */ text) => { this.told.textContent = text; };
    out.addEventListener("click", async () => tell(await (await import("./transfer.js")).exportChats(this.store)));
    into.addEventListener("click", () => picker.click());
    picker.addEventListener("change", async () => {
      tell(await (await import("./transfer.js")).importChats(this.store, picker.files[0]));
      picker.value = "";
      this.show(this.current);
    });
    return [out, into, picker];
  }

  /** Search, by the keyboard. */
  find() {
    this.folded.open = true;
    this.search.focus();
    this.search.select();
  }

  fold() {
    this.folded.open = !this.folded.open;
  }

  /** Show the chats, or those that are searched for. @param {string} current the one on the screen */
  async show(current) {
    this.current = current;
    const wanted = this.search.value.trim();
    const found = wanted ? await this.store.search(wanted) : (await this.store.chats()).map((chat) => ({ chat, message: undefined }));
    if (wanted !== this.search.value.trim() || this.list.querySelector("form")) return;
    this.missing.textContent = wanted && !found.length ? words.notFound : "";
    this.list.replaceChildren(...found.map(({ chat, message }) => this.entry(chat, message, wanted)));
  }

  /** @param {Chat} chat @param {import("./history.js").Message|undefined} message @param {string} wanted */
  entry(chat, message, wanted) {
    const name = chat.name || words.newChat;
    const button = el("button", { type: "button", dir: "auto", title: name }, name, ...(message ? [el("small", {}, around(message.content, wanted))] : []));
    if (chat.id === this.current) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => this.acts.open(chat, message));
    const rename = el("button", { type: "button", className: "small", "aria-label": fill(words.renameChat, { name }) }, "✎");
    const remove = el("button", { type: "button", className: "small", "aria-label": fill(words.deleteChat, { name }) }, "✕");
    const item = el("li", {}, button, rename, remove);
    rename.addEventListener("click", () => this.rename(chat, item));
    remove.addEventListener("click", async () => {
      if (!confirm(words.confirmDelete)) return;
      await this.store.remove(chat.id);
      this.acts.removed(chat.id);
      await this.show(this.current);
      this.search.focus();
    });
    return item;
  }

  /** @param {Chat} chat @param {HTMLElement} item */
  rename(chat, item) {
    const input = el("input", { value: chat.name, maxLength: 200, dir: "auto", "aria-label": words.newName, name: "rename" });
    const form = el("form", { className: "row" }, input, el("button", { className: "small" }, words.rename));
    const leave = async () => {
      form.remove();
      await this.show(this.current);
      this.search.focus();
    };
    form.addEventListener("submit", async (/** @type {Event} */ event) => {
      event.preventDefault();
      const name = input.value.trim();
      if (name && !await this.store.update(chat.id, { name })) this.told.textContent = words.full;
      await leave();
    });
    input.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      leave();
    });
    item.replaceChildren(form);
    input.select();
  }
}

/** Return some of a text, from a little before what is searched for. @param {string} text @param {string} wanted */
function around(text, wanted) {
  const start = Math.max(text.toLowerCase().indexOf(wanted.toLowerCase()) - 20, 0);
  return `${start ? "…" : ""}${[...text.slice(start, start + 90)].join("").toWellFormed()}`;
}

/** Return the list of shortcuts. */
function shortcuts() {
  const pairs = [["Ctrl+K", words.search], ["Ctrl+Shift+O", words.newChat], ["Ctrl+B", words.chats], ["Esc", words.stop], ["↑", words.editLast]];
  return el("details", {}, el("summary", {}, words.shortcuts), el("ul", { className: "keys" },
    ...pairs.map(([key, text]) => el("li", {}, el("kbd", {}, key), " ", text))));
}

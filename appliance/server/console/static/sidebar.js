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
    const run = async (/** @type {(transfer: typeof import("./transfer.js")) => Promise<string>} */ act) => {
      tell("");
      const transfer = await import("./transfer.js").catch(() => null);
      tell(transfer ? await act(transfer) : words.errorNetwork);
    };
    out.addEventListener("click", () => run(({ exportChats }) => exportChats(this.store)));
    into.addEventListener("click", () => picker.click());
    picker.addEventListener("change", async () => {
      const [file] = picker.files; // now: another one may be chosen while this one is read
      picker.value = "";
      await run(({ importChats }) => importChats(this.store, file));
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
    const { search } = wanted ? await import("./search.js").catch(() => ({ search: null })) : { search: null };
    const found = search ? await search(this.store, wanted) : wanted ? [] : (await this.store.chats()).map((chat) => ({ chat, message: undefined, part: undefined }));
    if (wanted !== this.search.value.trim() || this.list.querySelector("form")) return;
    this.missing.textContent = found.length || !wanted ? "" : search ? words.notFound : words.errorNetwork;
    this.list.replaceChildren(...found.map(({ chat, message, part }) => this.entry(chat, message, part)));
  }

  /** @param {Chat} chat @param {import("./history.js").Message} [message] @param {string} [part] */
  entry(chat, message, part) {
    const name = chat.name || words.newChat;
    const button = el("button", { type: "button", dir: "auto", title: name }, name, ...(part ? [el("small", {}, part)] : []));
    if (chat.id === this.current) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => this.acts.open(chat, message));
    const rename = el("button", { type: "button", className: "small", "aria-label": fill(words.renameChat, { name }) }, "✎");
    const remove = el("button", { type: "button", className: "small", "aria-label": fill(words.deleteChat, { name }) }, "✕");
    const item = el("li", {}, button, rename, remove);
    rename.addEventListener("click", async () => {
      const { renameIn } = await import("./rename.js").catch(() => ({ renameIn: null }));
      if (renameIn && item.isConnected) renameIn(this, chat, item);
      else if (!renameIn) this.told.textContent = words.errorNetwork;
    });
    remove.addEventListener("click", async () => {
      if (!confirm(words.confirmDelete)) return;
      this.acts.removed(chat.id); // first, so that a question which is asked meanwhile does not bring it back
      if (!await this.store.remove(chat.id)) this.told.textContent = words.full;
      await this.show(this.current);
      this.search.focus();
    });
    return item;
  }
}

/** Return the list of shortcuts. */
function shortcuts() {
  const pairs = [["Ctrl+K", words.search], ["Ctrl+Shift+O", words.newChat], ["Ctrl+B", words.chats], ["Esc", words.stop], ["↑", words.editLast]];
  return el("details", {}, el("summary", {}, words.shortcuts), el("ul", { className: "keys" },
    ...pairs.map(([key, text]) => el("li", {}, el("kbd", {}, key), " ", text))));
}

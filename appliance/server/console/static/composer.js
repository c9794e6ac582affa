/** The place to write: the message, what is attached to it, the model, the settings, send and stop. */

import { el } from "./dom.js";
import { fill, number, words } from "./words.js";

const LONG_PASTE = 2000;
const PER_TOKEN = 3; // characters; few, so that no draft seems shorter than it is

/**
 * @typedef {import("./history.js").Attached} Attached
 * @typedef {{send: (text: string) => void, stop: () => void, last: () => void, cancel: () => void, ready: () => Promise<any>,
 *   chat: () => import("./history.js").Chat, tell: (text: string) => void}} Acts
 */

/** What it does is done by its acts. */
export class Composer {
  /** @param {Acts} acts */
  constructor(acts) {
    this.acts = acts;
    this.isRunning = false;
    this.files = /** @type {Attached[]} */ ([]);
    this.draft = { text: "", files: this.files }; // what an edit took the place of
    this.attaching = Promise.resolve();
    this.refused = 0;
    this.text = el("textarea", { rows: 1, placeholder: words.placeholder, "aria-label": words.question, dir: "auto", name: "question" });
    this.model = el("select", { name: "model", "aria-label": words.model });
    this.submit = el("button", { className: "main" }, words.send);
    this.halt = el("button", { type: "button", hidden: true }, words.stop);
    this.picker = el("input", { type: "file", multiple: true, hidden: true, tabIndex: -1, "aria-label": words.attach });
    const attach = el("button", { type: "button", "aria-label": words.attach, title: words.attach }, "+");
    this.form = el("form", { className: "ask" }, attach, this.picker, this.text, this.submit, this.halt);
    this.chips = el("ul", { className: "chips", "aria-label": words.attached, hidden: true });
    const cancel = el("button", { type: "button", className: "small" }, words.cancelEdit);
    this.editing = el("p", { className: "row soft editing", hidden: true }, words.editing, cancel);
    this.options = el("details", { className: "settings" }, el("summary", {}, words.options));
    this.gauge = el("meter", { min: 0, max: 1, high: 0.85, hidden: true });
    this.used = el("span", { className: "soft" });
    this.lengths = /** @type {Map<string, number>} */ (new Map());
    this.spent = 0;
    this.element = el("div", { className: "dock" }, el("div", {}, el("div", { className: "row tools" }, this.model, this.options, el("span", { className: "context" }, this.gauge, this.used)),
      this.editing, this.chips, this.form));
    this.form.addEventListener("submit", (/** @type {Event} */ event) => { event.preventDefault(); this.send(); });
    this.halt.addEventListener("click", acts.stop);
    cancel.addEventListener("click", () => { this.leaveEdit(); this.text.focus(); acts.cancel(); });
    attach.addEventListener("click", () => this.picker.click());
    this.picker.addEventListener("change", () => { this.attach(this.picker.files); });
    this.model.addEventListener("change", () => this.measure());
    this.options.addEventListener("toggle", () => this.openSettings());
    this.listen();
  }

  /** Listen to keys, pastes and drops. */
  listen() {
    let isPlain = false;
    this.text.addEventListener("input", () => this.measure());
    this.text.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      isPlain = event.shiftKey;
      if (event.key === "ArrowUp" && !this.text.value && !this.isRunning) { event.preventDefault(); this.acts.last(); }
      const sends = event.ctrlKey || (!event.shiftKey && !matchMedia("(pointer: coarse)").matches);
      if (event.key !== "Enter" || event.isComposing || !sends) return;
      event.preventDefault();
      this.form.requestSubmit();
    });
    this.text.addEventListener("paste", (/** @type {ClipboardEvent} */ event) => {
      const { clipboardData: pasted } = event;
      const text = pasted?.getData("text/plain") ?? "";
      if (pasted?.files.length) this.attach(pasted.files);
      else if (text.length > LONG_PASTE && !isPlain) this.add({ name: words.pasted, text });
      else return;
      event.preventDefault();
    });
    this.element.addEventListener("dragover", (/** @type {DragEvent} */ event) => event.preventDefault());
    this.element.addEventListener("drop", (/** @type {DragEvent} */ event) => {
      if (!event.dataTransfer?.files.length) return;
      event.preventDefault();
      this.attach(event.dataTransfer.files);
    });
  }

  /** Send the message as it is written now. */
  send() {
    const invalid = [...this.options.querySelectorAll(":invalid")][0];
    if (invalid) { this.options.open = true; invalid.reportValidity(); return; }
    this.acts.send(this.text.value);
  }

  /** Attach files that hold text, one choice after the other. @param {FileList} files */
  attach(files) {
    const chosen = [...files];
    this.picker.value = "";
    this.attaching = this.attaching.then(() => this.read(chosen));
  }

  /** @param {File[]} chosen */
  async read(chosen) {
    const { readTexts } = await import("./files.js").catch(() => ({ readTexts: null }));
    const { texts, refused } = await readTexts?.(chosen) ?? { texts: [], refused: [words.errorNetwork] };
    this.refused += refused.length;
    if (refused.length) this.acts.tell(refused.join(" "));
    for (const one of texts) this.add(one);
  }

  /** Return the files of a message, once all are read; null if one is refused meanwhile. @param {boolean} isEdit @returns {Promise<Attached[]|null>} */
  async attached(isEdit) {
    const before = this.refused;
    await this.attaching;
    return this.refused !== before ? null : isEdit || this.editing.hidden ? this.files : this.draft.files;
  }

  /** @param {Attached} file */
  add(file) {
    this.files = [...this.files, file];
    this.show();
    this.text.focus();
  }

  /** Show what is attached. */
  show() {
    this.chips.hidden = !this.files.length;
    this.chips.replaceChildren(...this.files.map((file) => {
      const remove = el("button", { type: "button", className: "small", "aria-label": fill(words.detach, { name: file.name }) }, "✕");
      remove.addEventListener("click", () => { this.files = this.files.filter((one) => one !== file); this.show(); this.text.focus(); });
      return el("li", {}, el("span", { dir: "auto" }, fill(words.attachedFile, { name: file.name, count: number(file.text.length) })), remove);
    }));
    this.measure();
  }

  /** Put a message here to be changed; what was being written waits. @param {string} text @param {Attached[]} files */
  edit(text, files) {
    if (this.editing.hidden) this.draft = { text: this.text.value, files: this.files };
    this.put(text, files);
    this.editing.hidden = false;
    this.text.focus();
  }

  /** Go back from an edit to what was being written before. */
  leaveEdit() {
    if (this.editing.hidden) return;
    this.put(this.draft.text, this.draft.files);
    this.editing.hidden = true;
  }

  /** Take out what is sent; what was written since stays. @param {string} text @param {Attached[]} files @param {boolean} isEdit */
  take(text, files, isEdit) {
    if (isEdit) return this.leaveEdit();
    const isCovered = !this.editing.hidden, from = isCovered ? this.draft : { text: this.text.value, files: this.files };
    this.draft = { text: from.text.startsWith(text) ? from.text.slice(text.length) : from.text, files: from.files.filter((one) => !files.includes(one)) };
    if (!isCovered) this.put(this.draft.text, this.draft.files);
  }

  /** @param {string} text @param {Attached[]} files */
  put(text, files) {
    this.text.value = text;
    this.files = files;
    this.show();
  }

  /** Offer the installed chat models. @param {{id: string, context_length: number}[]} models @param {string} wanted */
  offer(models, wanted) {
    this.lengths = new Map(models.map((one) => [one.id, one.context_length]));
    this.model.replaceChildren(...models.map(({ id }) => el("option", { value: id }, id)));
    this.choose(wanted);
  }

  /** Choose a model that is installed, else the default one. @param {string} wanted */
  choose(wanted) {
    this.model.value = this.lengths.has(wanted) ? wanted : "default";
    if (this.model.selectedIndex < 0) this.model.selectedIndex = 0;
    this.measure();
  }

  /** Tell how full the context is, with what is being written. @param {import("./history.js").Thread} [thread] */
  measure(thread) {
    if (thread) this.spent = thread.path().findLast((message) => message.used)?.used ?? 0;
    const length = this.lengths.get(this.model.value) ?? 0;
    const draft = Math.ceil((this.text.value.length + this.files.reduce((sum, file) => sum + file.text.length, 0)) / PER_TOKEN);
    const used = this.spent + draft;
    this.gauge.hidden = !length || !used;
    const text = fill(words.contextUsed, { used: number(used), length: number(length) });
    this.gauge.max = length || 1;
    this.gauge.high = 0.85 * this.gauge.max;
    this.gauge.value = used;
    this.gauge.setAttribute("aria-label", text);
    this.used.textContent = this.gauge.hidden ? "" : used > length ? words.contextFull : text;
  }

  /** Show the settings of the chat; their fields are loaded when they are opened. */
  async openSettings() {
    if (!this.options.open) return;
    try {
      const { settings } = await import("./settings.js");
      await this.acts.ready();
      this.options.replaceChildren(this.options.firstElementChild, settings(this.acts.chat()));
    } catch {
      this.options.open = false;
      this.acts.tell(words.errorNetwork);
    }
  }

  /** @param {boolean} running */
  run(running) {
    const hadFocus = this.form.contains(document.activeElement);
    this.isRunning = running;
    this.submit.hidden = running;
    this.halt.hidden = !running;
    if (hadFocus) this.text.focus();
  }
}

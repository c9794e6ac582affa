/** The place to write: the message, what is attached to it, the model, the settings, send and stop. */

import { el } from "./dom.js";
import { fill, number, words } from "./words.js";

const LONG_PASTE = 2000;
const PER_TOKEN = 3; // characters: few enough that a draft is not taken for shorter than it is

/**
 * @typedef {import("./history.js").Attached} Attached
 * @typedef {{send: (text: string, files: Attached[]) => void, stop: () => void, last: () => void, cancel: () => void, chat: () => import("./history.js").Chat,
 *   tell: (text: string) => void}} Acts
 */

/** The composer; what it does is done by its acts. */
export class Composer {
  /** @param {Acts} acts */
  constructor(acts) {
    this.acts = acts;
    this.isRunning = false;
    this.files = /** @type {Attached[]} */ ([]);
    this.attaching = Promise.resolve();
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
    cancel.addEventListener("click", () => { this.edit("", [], false); acts.cancel(); });
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

  /** Send the message, once every file that was chosen is read. */
  async send() {
    const invalid = [...this.options.querySelectorAll(":invalid")][0];
    if (invalid) { this.options.open = true; invalid.reportValidity(); return; }
    await this.attaching.catch(() => {});
    const text = this.text.value.trim();
    if (this.isRunning || !(text || this.files.length)) return;
    this.acts.send(text, this.files);
  }

  /** Attach files that hold text, one choice after the other. @param {FileList} files */
  attach(files) {
    const chosen = [...files];
    this.picker.value = "";
    this.attaching = this.attaching.catch(() => {}).then(() => this.read(chosen));
  }

  /** @param {File[]} chosen */
  async read(chosen) {
    const { readTexts } = await import("./files.js");
    const { texts, refused } = await readTexts(chosen);
    if (refused.length) this.acts.tell(refused.join(" "));
    for (const one of texts) this.add(one);
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

  /** Put a message here, to be changed or sent. @param {string} text @param {Attached[]} files @param {boolean} isEdit */
  edit(text, files, isEdit) {
    this.text.value = text;
    this.files = files;
    this.editing.hidden = !isEdit;
    this.show();
    this.text.focus();
  }

  /** Offer the installed chat models. @param {{id: string, context_length: number}[]} models @param {string} wanted */
  offer(models, wanted) {
    this.lengths = new Map(models.map((one) => [one.id, one.context_length]));
    this.model.replaceChildren(...models.map(({ id }) => el("option", { value: id }, id)));
    this.choose(wanted);
  }

  /** Choose a model where it is installed, else the default one. @param {string} wanted */
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
    const text = this.gauge.hidden ? "" : fill(words.contextUsed, { used: number(used), length: number(length) });
    this.gauge.max = length || 1;
    this.gauge.high = 0.85 * this.gauge.max;
    this.gauge.value = used;
    this.gauge.setAttribute("aria-label", text);
    this.used.textContent = text && used > length ? words.contextFull : text;
  }

  /** Show the settings of the chat; their fields are loaded when they are opened. */
  async openSettings() {
    if (!this.options.open) return;
    const { settings } = await import("./settings.js");
    this.options.lastElementChild.matches("summary") || this.options.lastElementChild.remove();
    this.options.append(settings(this.acts.chat()));
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

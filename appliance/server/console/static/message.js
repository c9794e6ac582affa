/** One message on the screen. */

import { copyButton, el } from "./dom.js";
import { Markdown } from "./markdown.js";
import { fill, number, words } from "./words.js";

/** A message of the reader or of the model, which may still grow. */
export class MessageView {
  /** @param {import("./history.js").Message} message */
  constructor(message) {
    this.message = message;
    this.text = el("div", { className: "text", dir: "auto" });
    this.foot = el("div", { className: "foot" });
    this.note = el("p", { className: "notice bad", hidden: true });
    this.why = el("span");
    this.bar = el("progress", { hidden: true });
    this.waits = el("p", { className: "row soft waits", hidden: true }, this.bar, this.why);
    const isUser = message.role === "user";
    this.element = el("article", { className: `message ${message.role}` },
      el("h2", {}, isUser ? words.you : words.assistant), ...(message.files ?? []).map(attached), el("div", {}, this.text), this.waits, this.note, this.foot);
    if (isUser) {
      this.text.textContent = message.content;
      this.text.hidden = !message.content;
    } else this.begin();
  }

  /** Show what there is of an answer. */
  begin() {
    this.markdown = new Markdown(this.text);
    if (this.message.thoughts) this.showThoughts(this.message.thoughts);
    this.markdown.add(this.message.content);
  }

  /** Show why there is no answer yet, and the part that is done. @param {string} why @param {number} [part] */
  wait(why, part) {
    this.waits.hidden = !why;
    this.why.textContent = why;
    this.bar.hidden = part === undefined;
    this.bar.value = part ?? 0;
    this.bar.setAttribute("aria-label", why);
  }

  /** @param {string} text */
  add(text) {
    this.message.content += text;
    this.markdown?.add(text);
  }

  /** Show another text in the place of what came. @param {string} text */
  replace(text) {
    this.text.replaceChildren();
    this.markdown?.drop();
    this.markdown = new Markdown(this.text);
    this.message.content = "";
    this.add(text);
  }

  /** @param {string} text */
  addThoughts(text) {
    this.message.thoughts = (this.message.thoughts ?? "") + text;
    this.showThoughts(text);
  }

  /** @param {string} text */
  showThoughts(text) {
    if (!this.thoughts) {
      this.thoughts = document.createTextNode("");
      this.text.parentElement.before(
        el("details", {}, el("summary", {}, words.thoughts), el("div", { className: "thought", dir: "auto" }, this.thoughts)));
    }
    this.thoughts.appendData(text);
  }

  /**
   * End the message: its notes, and what can be done with it.
   * @param {...HTMLElement} buttons
   */
  end(...buttons) {
    this.markdown?.end();
    this.element.removeAttribute("aria-busy");
    const { note, foot } = this.message;
    this.foot.replaceChildren(...buttons, copyButton(() => this.message.content), foot ?? "");
    this.note.textContent = note ?? "";
    this.note.hidden = !note;
  }
}

/** Return an attached file, folded. @param {import("./history.js").Attached} file */
function attached({ name, text }) {
  return el("details", { className: "chip" }, el("summary", { dir: "auto" }, fill(words.attachedFile, { name, count: number(text.length) })),
    el("pre", { tabIndex: 0, role: "group", "aria-label": name, dir: "auto" }, text));
}

/** The chat view. */

import { Failure, send } from "./api.js";
import { answer } from "./answer.js";
import { Composer } from "./composer.js";
import { el } from "./dom.js";
import { Thread, nameOf, newChat } from "./history.js";
import { MessageView } from "./message.js";
import { Notices } from "./notices.js";
import { Sidebar } from "./sidebar.js";
import { openStore } from "./store.js";
import { words } from "./words.js";

const NEAR = 40;

/**
 * @typedef {import("./history.js").Message} Message
 * @typedef {{control: AbortController, thread: Thread, view: MessageView}} Run An answer that grows, seen or not.
 */

/** The chats: one on the screen, any number of them running. */
export class ChatView {
  constructor() {
    this.thread = new Thread();
    this.runs = /** @type {Map<string, Run>} */ (new Map());
    this.editing = /** @type {Message|null} */ (null);
    this.composer = new Composer({ send: (text) => this.ask(text), stop: () => this.run?.control.abort(), last: () => this.editLast(),
      cancel: () => { this.editing = null; }, ready: () => this.opened, chat: () => this.thread.chat, tell: (text) => this.tell(text) });
    this.lines = el("div", { className: "lines" });
    this.notices = new Notices(() => this.loadModels());
    this.said = el("p", { className: "hidden", role: "status" });
    this.scroll = el("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": words.chat }, this.lines, this.notices.element);
    this.follows = true;
    this.down = el("button", { type: "button", className: "small down", hidden: true }, words.newBelow);
    this.down.addEventListener("click", () => { this.follows = true; this.toEnd(); this.composer.text.focus(); });
    this.scroll.addEventListener("scroll", () => this.scrolled(), { passive: true });
    this.opened = this.start();
    this.acts = /** @type {Promise<any>} */ (this.opened);
    this.element = el("div", { className: "chat" },
      el("div", { className: "talk" }, el("h1", { className: "hidden" }, words.chat), this.scroll, this.down, this.said, this.composer.element));
    this.element.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.shortcut(event));
    this.loadModels();
  }

  /** The running answer of the chat on the screen. */
  get run() {
    return this.runs.get(this.thread.chat.id);
  }

  /** Open the store, and the latest chat. */
  async start() {
    const store = await openStore((id) => this.changed(id), (text) => this.tell(text));
    this.side = new Sidebar(store, { open: (chat, message) => this.open(chat, message), removed: (id) => this.removed(id) });
    this.element.prepend(this.side.element);
    this.store = store;
    await this.load((await store.chats())[0] ?? this.thread.chat);
    return { store, side: this.side };
  }

  scrolled() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroll;
    this.follows = scrollHeight - scrollTop - clientHeight < NEAR;
    if (this.follows) this.down.hidden = true;
  }

  toEnd() {
    if (this.follows) this.scroll.scrollTop = this.scroll.scrollHeight;
    else this.down.hidden = !this.run;
  }

  /** @param {KeyboardEvent} event */
  shortcut(event) {
    const isCommand = event.ctrlKey || event.metaKey;
    const key = event.key.toLowerCase();
    if (event.key === "Escape") this.run?.control.abort();
    else if (isCommand && key === "k") this.side?.find();
    else if (isCommand && event.shiftKey && key === "o") this.open(newChat(this.thread.chat));
    else if (isCommand && key === "b") this.side?.fold();
    else return;
    if (event.key !== "Escape") event.preventDefault();
  }

  /** Ask which chat models there are; where a key is wanted, ask for it. */
  async loadModels() {
    this.notices.clear(false);
    try {
      const { data } = await (await send("/v1/models")).json();
      const models = data.filter((/** @type {any} */ one) => one.kind === "decoder");
      this.composer.offer(models, this.thread.chat.model);
      if (!models.length) await this.notices.want(words.noModels, false);
    } catch (error) {
      this.fail(error);
    }
  }

  /** @param {unknown} error */
  fail(error) {
    if (!(error instanceof Failure)) throw error;
    return this.notices.want(error.message, error.wantsKey);
  }

  /** @param {string} text */
  tell(text) {
    this.notices.tell(text);
  }

  /** Do one act after the other, so that a question belongs to the chat that is opened. @param {() => Promise<void>} act */
  next(act) {
    this.acts = this.acts.catch(() => {}).then(act);
    return this.acts;
  }

  /** Show a chat. @param {import("./history.js").Chat} chat @param {Message} [message] one to be seen */
  open(chat, message) {
    return this.next(() => this.load(chat, message));
  }

  /** Read and show a chat; a running answer of another one goes on. @param {import("./history.js").Chat} chat @param {Message} [message] */
  async load(chat, message) {
    this.thread = this.runs.get(chat.id)?.thread ?? new Thread(chat, await this.store?.messages(chat.id));
    if (message && !this.thread.path().some(({ id }) => id === message.id)) this.thread.choose(this.thread.byId.get(message.id) ?? message);
    this.editing = null;
    this.composer.leaveEdit();
    this.composer.text.focus();
    this.composer.openSettings();
    this.composer.choose(chat.model);
    this.show();
    this.goOn();
    if (message) this.views?.get(message.id)?.element.scrollIntoView({ block: "center" });
  }

  /** Follow the answer that the device still makes for this chat. */
  goOn() {
    const last = this.thread.path().at(-1);
    if (last?.response && !this.run) this.grow(last);
  }

  /** Show the whole chat. */
  show() {
    const path = this.thread.path();
    this.views = new Map(path.map((message) => [message.id, this.run?.view.message === message ? this.run.view : new MessageView(message)]));
    this.lines.replaceChildren(...[...this.views.values()].map((view) => view.element));
    if (!path.length) this.lines.append(el("p", { className: "empty" }, words.empty));
    for (const view of this.views.values()) if (view !== this.run?.view) view.end(...this.buttons(view.message));
    this.composer.run(Boolean(this.run));
    this.side?.show(this.thread.chat.id);
    this.composer.measure(this.thread);
    this.follows = true;
    this.toEnd();
  }

  /** Return the buttons of a message. @param {Message} message */
  buttons(message) {
    const { chat } = this.thread, offers = message.isTooLong && !chat.settings.truncation;
    const again = () => {
      if (offers) chat.settings = { ...chat.settings, truncation: "auto" };
      this.respond(message.parent);
    };
    const [label, act] = message.role === "user" ? [words.edit, () => this.edit(message)] : [offers ? words.leaveOut : words.again, again];
    const button = el("button", { type: "button", className: "small" }, label);
    button.addEventListener("click", () => { if (!this.run) act(); });
    const siblings = this.thread.siblings(message);
    if (siblings.length < 2) return [button];
    const versions = el("span", { className: "row versions", role: "group", "aria-label": words.versions });
    import("./versions.js").then(({ arrows }) => versions.append(...arrows(siblings, message, (other) => this.choose(other))), () => null);
    return [versions, button];
  }

  /** Go to another version of a message. @param {Message} message */
  async choose(message) {
    if (this.run) return;
    this.thread.choose(message);
    const { id, leaf } = this.thread.chat;
    this.store?.update(id, { leaf }, false);
    this.show();
    const view = this.views?.get(message.id);
    view?.element.scrollIntoView({ block: "nearest" });
    this.goOn();
    await import("./versions.js"); // whose arrows are there by now
    view?.foot.querySelector("button:enabled")?.focus();
  }

  /** Take a question into the composer; sent again, it makes a branch. @param {Message} message */
  edit(message) {
    this.editing = message;
    this.composer.edit(message.content, message.files ?? []);
  }

  editLast() {
    const last = this.thread.path().findLast((message) => message.role === "user");
    if (last && !this.run) this.edit(last);
  }

  /** Ask in the chat on the screen. @param {string} written */
  ask(written) {
    return this.next(async () => { this.askIn(this.thread, this.editing, written); });
  }

  /** Ask once all files are read and the models are known. @param {Thread} thread @param {Message|null} editing @param {string} written */
  async askIn(thread, editing, written) {
    const { composer } = this, text = written.trim();
    const files = await composer.attached(Boolean(editing));
    if (!files || !(text || files.length)) return;
    if (!composer.model.value) await this.loadModels();
    if (!composer.model.value || this.runs.has(thread.chat.id)) return;
    const isEdit = Boolean(editing) && this.editing === editing;
    if (editing && !isEdit && this.thread === thread) return; // it was cancelled
    if (isEdit) this.editing = null;
    if (isEdit || !editing) composer.take(written, files, isEdit);
    if (!thread.chat.name) thread.chat.name = nameOf(text || files[0].name);
    const question = thread.add("user", editing ? editing.parent : thread.chat.leaf, text, files);
    this.respond(question.id, [question], thread);
  }

  /** Let the model answer a question, with other answers beside it if there are any. @param {string|null} parent @param {Message[]} [fresh] */
  async respond(parent, fresh = [], thread = this.thread) {
    if (thread === this.thread || !thread.chat.model) thread.chat.model = this.composer.model.value || thread.chat.model;
    const message = thread.add("assistant", parent, "");
    this.notices.clear(true);
    const run = this.begin(message, thread);
    if (thread === this.thread) this.show();
    const { store } = await this.opened;
    if (!await store.begin(thread, [...fresh, message])) this.tell(words.full);
    await this.grow(message, run);
  }

  /** @param {Message} message @returns {Run} */
  begin(message, thread = this.thread) {
    const run = { control: new AbortController(), thread, view: new MessageView(message) };
    run.view.element.setAttribute("aria-busy", "true");
    this.runs.set(thread.chat.id, run);
    return run;
  }

  /** Let a message grow until its answer ends, and keep it meanwhile; one that a reload cut goes on. @param {Message} message */
  async grow(message, run = this.begin(message)) {
    const { store } = await this.opened;
    const { thread, view, control } = run;
    const isSeen = () => this.thread === thread;
    if (isSeen()) this.show();
    const save = async () => { if (!await store.save(message)) this.tell(words.full); };
    const say = (/** @type {string} */ text, isShown = false) => {
      if (!isSeen()) return;
      this.said.textContent = text;
      this.said.classList.toggle("hidden", !isShown);
    };
    say(words.answering);
    let end = words.complete;
    try {
      await answer(thread, view, control.signal, { shown: () => { if (isSeen()) this.toEnd(); }, save, say });
    } catch (error) {
      if (!control.signal.aborted && !(error instanceof Failure)) throw error;
      const kept = await store.message(message.id);
      if (kept && !kept.response && kept.content.length > message.content.length) view.replace(kept.content); // another tab has it whole
      else {
        message.isTooLong = /** @type {any} */ (error).code === "context_length_exceeded";
        message.note = end = control.signal.aborted ? words.stopped : message.isTooLong ? words.tooLong : /** @type {Failure} */ (error).message;
      }
      if (/** @type {any} */ (error).wantsKey) this.fail(error);
    } finally {
      this.runs.delete(thread.chat.id);
      if (!await store.save(message, true)) this.tell(words.full);
      this.ended(run, end);
    }
  }

  /** Show that an answer has ended; where the reader is does not change. @param {Run} run @param {string} text */
  ended({ thread, view }, text) {
    view.end(...this.buttons(view.message));
    if (this.thread !== thread) return;
    this.composer.run(Boolean(this.run)); // another one may have begun
    this.toEnd();
    this.composer.measure(this.thread);
    this.said.textContent = text;
    this.said.classList.add("hidden");
  }

  /** Take in what another tab did; what is seen here stays. @param {string} id */
  async changed(id) {
    const { thread } = this;
    this.side?.show(thread.chat.id);
    if (id && id !== thread.chat.id) return;
    const before = thread.byId.size;
    const running = this.run?.view.message.id;
    for (const message of await this.store?.messages(thread.chat.id) ?? []) if (message.id !== running) thread.insert(message);
    if (this.thread !== thread || this.run) return;
    const leaf = thread.byId.get(thread.chat.leaf ?? ""); // read now: another version may have been chosen meanwhile
    if (leaf && thread.last(leaf.id)) thread.choose(leaf);
    const view = this.views?.get(thread.chat.leaf ?? "");
    if (thread.byId.size !== before || !view) this.show();
    else if (view.message.role === "assistant" && !view.message.response) { view.replace(view.message.content); view.end(...this.buttons(view.message)); }
  }

  /** End what a deleted chat runs; where it was seen, begin another. @param {string} id */
  removed(id) {
    this.runs.get(id)?.control.abort();
    if (id === this.thread.chat.id) this.open(newChat(this.thread.chat));
  }
}

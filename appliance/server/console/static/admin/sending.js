/** The card of an upload: a file is chosen or dropped, sent with its progress, paused, resumed and given up. */

import { Failure } from "../api.js";
import { el, field } from "../dom.js";
import { fill, number } from "../words.js";
import { say, size } from "./say.js";
import { sendPieces } from "./upload.js";
import { ask, confirmed } from "./view.js";

/**
 * @typedef {import("./upload.js").Upload} Upload
 * @typedef {{upload: Upload|null, content: (name: string) => Blob|undefined}} Begun
 */

/**
 * Return the card; one for a page, since an upload goes on while its view is left.
 * @param {object} kind
 * @param {string} kind.base the route of uploads
 * @param {string} kind.label
 * @param {string} kind.accept
 * @param {(file: File, tell: (text: string) => void, signal: AbortSignal) => Promise<Begun>} kind.begin no upload if the device has it all
 * @param {(upload: Upload|null) => Promise<string>} kind.install returns what to tell
 */
export function sendingCard({ base, label, accept, begin, install }) {
  const file = el("input", { type: "file", accept, name: "file" });
  const drop = el("div", { className: "drop" }, field(label, file));
  const bar = el("progress", { max: 1, value: 0, "aria-label": say.progress, hidden: true });
  const line = el("p", { role: "status" });
  const halt = el("button", { type: "button", hidden: true }, say.pause);
  const onward = el("button", { type: "button", className: "main", hidden: true }, say.resume);
  const unfinished = el("div");
  let running = /** @type {AbortController|null} */ (null);
  let chosen = /** @type {File|null} */ (null);

  /** @param {string} text @param {boolean} [isBad] */
  function tell(text, isBad = false) {
    line.textContent = text;
    line.className = isBad ? "notice bad" : text ? "notice" : "";
  }

  const report = (/** @type {number} */ done, /** @type {number} */ all, /** @type {boolean} */ waits) => {
    bar.value = all ? done / all : 1;
    tell(fill(waits ? say.sendWaits : say.sendProgress, { done: size(done), all: size(all), percent: number(100 * bar.value) }), waits);
  };

  async function run() {
    if (!chosen || running) return;
    const { signal } = running = new AbortController();
    bar.hidden = halt.hidden = false;
    file.disabled = onward.hidden = true;
    try {
      const { upload, content } = await begin(chosen, tell, signal);
      signal.throwIfAborted();
      if (upload) await sendPieces(base, upload, content, signal, report);
      signal.throwIfAborted();
      halt.hidden = true;
      tell(say.checking);
      tell(await install(upload));
      chosen = null;
      file.value = "";
    } catch (error) {
      if (!signal.aborted && !(error instanceof Failure)) throw error;
      tell(signal.aborted ? say.paused : /** @type {Failure} */ (error).message, !signal.aborted);
      onward.hidden = false;
    } finally {
      running = null;
      halt.hidden = true;
      bar.hidden = !chosen;
      file.disabled = false;
      await list();
    }
  }

  /** Show what the device holds of earlier uploads. */
  async function list() {
    const { uploads } = await ask(base).catch(() => ({ uploads: [] }));
    unfinished.replaceChildren(...uploads.map((/** @type {Upload} */ upload) => {
      const all = upload.files.reduce((sum, one) => sum + one.size_bytes, 0);
      const done = upload.files.reduce((sum, one) => sum + one.received, 0);
      const remove = el("button", { type: "button", className: "small danger", "aria-label": `${say.giveUp}: ${upload.name}` }, say.giveUp);
      remove.addEventListener("click", async () => {
        if (running || !await confirmed(fill(say.giveUpAsk, { name: upload.name }), say.giveUp)) return;
        await ask(`${base}/${upload.id}`, { method: "DELETE" }).catch((error) => tell(error.message, true));
        await list();
      });
      return el("p", { className: "row" }, el("span", { dir: "auto" }, fill(say.unfinished, { name: upload.name, done: size(done), all: size(all) })), remove);
    }));
  }

  const choose = (/** @type {File|undefined} */ one) => { if (one) { chosen = one; run(); } };
  file.addEventListener("change", () => choose(file.files?.[0]));
  halt.addEventListener("click", () => running?.abort());
  onward.addEventListener("click", run);
  for (const kind of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(kind, (/** @type {DragEvent} */ event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragover");
      if (kind === "drop" && !running) choose(event.dataTransfer?.files[0]);
    });
  }
  list();
  return el("div", {}, drop, bar, line, el("div", { className: "row" }, halt, onward), unfinished);
}

/** The update of the whole system: its file is sent, the image checks and installs it, and the outcome is told. */

import { Failure } from "../api.js";
import { el } from "../dom.js";
import { fill, number, words } from "../words.js";
import { say } from "./say.js";
import { sendingCard } from "./sending.js";
import { ask, facts } from "./view.js";

const POLL_MS = 3000;

let sent = /** @type {HTMLElement|null} */ (null);
const BAD = ["refused", "fell_back"];

/** Return the card; where the machine was not started from an image, what it says. */
export function updateCard() {
  const state = el("div", {}, el("p", { className: "soft" }, say.loading));
  const card = el("div", {}, state);

  /** @param {any} told */
  function show(told) {
    state.replaceChildren(facts(/** @type {[string, string][]} */ ([[say.runs, told.running || say.version],
      [say.lastUpdate, [say[`step_${told.step}`] ?? told.step, told.version].filter(Boolean).join(" · ")]])),
    ...(told.detail ? [el("p", { className: BAD.includes(told.step) ? "notice bad" : "notice", dir: "auto" }, told.detail)] : []));
  }

  /** Follow the install until the view is left; the device restarts on the way. */
  async function follow() {
    if (!card.isConnected) return;
    if (!document.hidden) await ask("/admin/update").then(show, () => {});
    setTimeout(follow, POLL_MS);
  }

  const sending = () => sendingCard({
    base: "/admin/update/uploads",
    label: say.updateFile,
    accept: ".raucb",
    begin: async (file, tell, signal) => {
      const { sha256 } = await import("./sha256.js").catch(() => { throw new Failure(words.errorNetwork); });
      const sum = await sha256(file, (done) => tell(fill(say.summing, { percent: number(100 * done / file.size) })), signal);
      const upload = await ask("/admin/update/uploads", { json: { size_bytes: file.size, sha256: sum } });
      return { upload, content: () => file };
    },
    install: async (upload) => {
      await ask(`/admin/update/uploads/${/** @type {any} */ (upload).id}/install`, { method: "POST" });
      return say.updateGiven;
    },
  });

  ask("/admin/update").then((told) => { show(told); card.append(sent ??= sending()); setTimeout(follow, POLL_MS); }, (error) => {
    if (!(error instanceof Failure)) throw error;
    const text = error.message.replace(fill(words.error503, { message: "" }), ""); // it takes other requests
    state.replaceChildren(el("p", { className: "soft", dir: "auto" }, text));
  });
  return card;
}

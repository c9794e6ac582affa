/** The device view: its figures, its diagnosis, its log, its update, its restart, its certificate, its neighbours. */

import { health } from "../api.js";
import { el } from "../dom.js";
import { fingerprint, first, owner } from "../first/print.js";
import { identity } from "../identity.js";
import { keyLine } from "../key.js";
import { fill, number, words } from "../words.js";
import { Live } from "./live.js";
import { say, when } from "./say.js";
import { updateCard } from "./update.js";
import { Sheet, ask, confirmed, table } from "./view.js";

/** Return the view. */
export function deviceView() {
  const sheet = new Sheet(say.deviceTitle, say.deviceHelp);
  const live = new Live(() => sheet.tell(say.isBack));
  const result = (/** @type {() => Promise<Node[]>} */ look, /** @type {string} */ label) => {
    const found = el("div", { role: "status" });
    const button = sheet.button(label, async () => { found.replaceChildren(...await look()); }, "");
    return el("div", {}, button, found);
  };
  const section = (/** @type {string} */ title, /** @type {string} */ help, /** @type {Node[]} */ ...children) =>
    [el("h2", {}, title), el("p", { className: "soft" }, help), ...children];

  sheet.fill(async () => {
    const [told] = await Promise.all([identity(), live.once()]);
    setTimeout(() => live.poll(), 1000);
    return [live.element,
      ...section(say.doctorTitle, say.doctorHelp, result(examine, say.doctorRun)),
      ...section(say.requestsTitle, say.requestsHelp, result(requests, say.requestsShow)),
      ...section(say.updateTitle, say.updateHelp, updateCard()),
      ...section(say.restartTitle, say.restartHelp, await restart(sheet)),
      ...(told?.certificate ? [...section(first.printTitle, first.printHelp, fingerprint(told)), el("p", { className: "soft" }, owner(told))] : []),
      ...section(say.devicesTitle, say.devicesHelp, result(devices, say.devicesSearch)),
      el("h2", {}, words.keyLabel), keyLine(() => location.reload())];
  });
  return sheet.element;
}

/** Let the doctor look. */
async function examine() {
  const { findings } = await ask("/admin/doctor");
  const order = ["bad", "note", "good"];
  findings.sort((/** @type {any} */ a, /** @type {any} */ b) => order.indexOf(a.level) - order.indexOf(b.level));
  return findings.map((/** @type {any} */ one) => el("div", { className: `finding ${one.level}` },
    el("p", {}, el("strong", {}, `${say[one.level]}: ${one.subject}`), " – ", el("span", { dir: "auto" }, one.text)),
    ...(one.remedy ? [el("p", { className: "soft", dir: "auto" }, one.remedy)] : [])));
}

/** Show the last requests. */
async function requests() {
  const [{ requests: all }, { keys }] = await Promise.all([ask("/admin/requests"), ask("/admin/keys")]);
  const names = Object.fromEntries(keys.map((/** @type {any} */ key) => [key.id, key.name]));
  return [table(say.requestsTitle, [say.time, say.route, say.status, say.took, say.tokens, words.keyLabel, say.from], all.map((/** @type {any} */ one) => [
    when(one.at), `${one.method} ${one.route}`, one.status === "cancelled" ? say.cancelled : one.status, fill(say.milliseconds, { ms: number(one.duration_ms) }),
    one.prompt_tokens || one.generated_tokens ? `${number(one.prompt_tokens)} + ${number(one.generated_tokens)}` : "",
    el("span", { dir: "auto" }, names[one.key] ?? one.key), one.peer]))];
}

/** Search the network for other devices; links are all that is possible, since a page may not ask them. */
async function devices() {
  const { devices: found } = await ask("/admin/devices");
  return [table(say.devicesTitle, [say.name, say.status, words.models, say.version], found.map((/** @type {any} */ one) => [
    /^https?:\/\//.test(one.url) ? el("a", { href: one.url, rel: "noopener noreferrer", dir: "auto" }, one.name) : one.name,
    say[`state_${one.state}`] ?? one.state, number(one.num_models), one.version ?? ""]))];
}

/** Return the button that restarts, or in safe mode the one that leaves it. @param {Sheet} sheet */
async function restart(sheet) {
  if ((await health())?.status === "safe") {
    return sheet.button(say.leaveSafe, async () => {
      await ask("/admin/safe-mode", { method: "DELETE" });
      return say.restarting;
    }, "main");
  }
  return sheet.button(say.restart, async () => {
    if (!await confirmed(say.restartAsk, say.restart)) return;
    await ask("/admin/restart", { method: "POST" });
    return say.restarting;
  }, "danger");
}

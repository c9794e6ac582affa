/** The models view: what is installed and loaded, and everything that can be done with a model. */

import { send } from "../api.js";
import { el, field } from "../dom.js";
import { fill, number, words } from "../words.js";
import { installCard } from "./install.js";
import { say, size } from "./say.js";
import { trustCard } from "./trust.js";
import { Sheet, ask, confirmed, facts, form } from "./view.js";

const DEFAULT = "default";

/** Return the view. */
export function modelsView() {
  const sheet = new Sheet(words.models, say.modelsHelp);
  const list = el("div");

  const known = /** @type {Map<string, HTMLElement>} */ (new Map()); // by what a card tells
  let shows = 0;

  /** Ask until no act has changed anything meanwhile, whose answer is newer. @returns {Promise<void>} */
  async function reload() {
    const before = shows, told = await ask("/admin/models");
    return shows === before ? show(told) : reload();
  }

  /** Show the models; a card that tells the same stays, with what is typed or under way in it. @param {any} overview */
  function show({ models, storage, memory }) {
    shows += 1;
    const cards = models.map((/** @type {any} */ model) => {
      const text = JSON.stringify(model), made = known.get(text) ?? card(model);
      known.delete(text);
      return [text, made];
    });
    known.clear();
    for (const [text, made] of cards) known.set(text, made);
    list.replaceChildren(gauges(storage, memory), ...known.values(),
      ...(cards.length ? [] : [el("p", { className: "empty" }, say.noModels)]));
  }

  /** @param {any} model */
  function card(model) {
    const path = `/admin/models/${encodeURIComponent(model.name)}`;
    const change = (/** @type {string} */ label, /** @type {string} */ told, /** @type {() => Promise<any>} */ work, className = "small") => {
      const button = sheet.button(label, async () => {
        const answer = await work();
        if (!answer) return;
        await (answer.models ? show(answer) : reload());
        return fill(told, { name: model.name });
      }, className);
      button.setAttribute("aria-label", `${label}: ${model.name}`);
      return button;
    };
    const post = (/** @type {string} */ verb) => () => ask(`${path}/${verb}`, { method: "POST" });
    const acts = [
      model.loaded ? change(say.unload, say.unloaded, post("unload")) : change(say.load, say.loadedNow, post("load")),
      ...(model.kind === "decoder" && !model.aliases.includes(DEFAULT)
        ? [change(say.makeDefault, say.madeDefault, () => ask(`/admin/aliases/${DEFAULT}`, { method: "PUT", json: { model: model.name } }))] : []),
      ...(model.has_report ? [report(model.name, path)] : []),
      ...(model.versions.length > 1 ? [change(say.rollBack, say.rolledBack, async () =>
        await confirmed(fill(say.rollBackAsk, { name: model.name }), say.rollBack) && post("rollback")())] : []),
      change(say.remove, say.removed, async () =>
        await confirmed(fill(say.removeAsk, { name: model.name }), say.remove) && ask(path, { method: "DELETE" }), "small danger"),
    ];
    return el("section", { className: "card", "aria-label": model.name }, head(model),
      ...(model.problem ? [el("p", { className: "notice bad", dir: "auto" }, model.problem)] : []),
      ...(model.digest && model.kind ? [facts(described(model))] : []), ...quality(model.quality), names(model), el("div", { className: "row" }, ...acts));
  }

  /** @param {any} model */
  function names(model) {
    const removal = (/** @type {string} */ alias) => {
      const button = sheet.button("✕", async () => {
        await ask(`/admin/aliases/${encodeURIComponent(alias)}`, { method: "DELETE" });
        await reload();
      });
      button.setAttribute("aria-label", fill(say.aliasRemove, { name: alias }));
      return el("span", { className: "badge", dir: "auto" }, alias, " ", button);
    };
    const alias = el("input", { required: true, maxLength: 128, pattern: "[A-Za-z0-9][A-Za-z0-9._:/@+\\-]*", placeholder: "gpt-4o-mini", name: "alias" });
    const add = el("button", { className: "small" }, say.aliasAdd);
    return el("details", {}, el("summary", {}, fill(say.aliases, { count: number(model.aliases.length) })),
      ...(model.aliases.length ? [el("p", { className: "row" }, ...model.aliases.map(removal))] : []), el("p", { className: "soft" }, say.aliasHelp),
      form(sheet, add, async () => {
        await ask(`/admin/aliases/${encodeURIComponent(alias.value.trim())}`, { method: "PUT", json: { model: model.name } });
        await reload();
      }, field(say.aliasField, alias)));
  }

  /** @param {string} name @param {string} path */
  function report(name, path) {
    const button = sheet.button(say.report, async () => {
      const page = await (await send(`${path}/report`)).blob();
      const link = el("a", { href: URL.createObjectURL(page), download: `${name}.html` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    });
    button.setAttribute("aria-label", `${say.report}: ${name}`);
    return button;
  }

  sheet.fill(async () => {
    await reload();
    return [list, el("h2", {}, say.installTitle), el("p", { className: "soft" }, say.installHelp), installCard(reload),
      el("h2", {}, say.trustTitle), el("p", { className: "soft" }, say.trustWhy), trustCard(sheet, reload)];
  });
  return sheet.element;
}

/** @param {any} model */
function head(model) {
  const badge = (/** @type {string} */ text, className = "") => el("span", { className: `badge ${className}` }, text);
  return el("h2", { className: "head", dir: "auto" }, model.name, ...(model.kind ? [badge(say[model.kind])] : []),
    model.problem ? badge(say.faulty, "bad") : model.loaded ? badge(say.loaded, "good") : badge(say.notLoaded),
    ...(model.aliases.includes(DEFAULT) ? [badge(say.isDefault, "good")] : []));
}

/** @param {any} model @returns {[string, Node|string][]} */
function described(model) {
  return [[say.disk, size(model.size_bytes)], ...(model.loaded ? [/** @type {[string, string]} */ ([say.memory, size(model.memory_bytes)])] : []),
    [say.version, fill(say.versionOf, { version: model.version, digest: model.digest.slice(0, 8), count: number(model.versions.length) })],
    [say.license, model.license], [say.source, model.source], [say.signer, el("code", {}, model.signer)]];
}

/** Return the figures of the manifest. @param {any} told */
function quality(told) {
  const figures = Object.entries(told?.metrics ?? {});
  if (!figures.length) return [];
  return [el("details", {}, el("summary", {}, say.quality), el("p", { className: "soft" }, say.qualityHelp),
    ...(told.gates_overruled ? [el("p", { className: "notice bad" }, say.overruled)] : []),
    facts(figures.map(([name, value]) => [say[`metric_${name}`] ?? name.replaceAll("_", " "), figure(value)])),
    ...(told.text ? [el("p", { className: "soft", dir: "auto" }, fill(say.measuredOn, { text: told.text }))] : []))];
}

/** Return a figure with four digits that tell something. @param {number} value */
function figure(value) {
  return value && Math.abs(value) < 1e-3 ? value.toExponential(1) : number(value, 4);
}

/** @param {any} storage @param {any} memory */
function gauges(storage, memory) {
  const gauge = (/** @type {string} */ name, /** @type {number|null} */ free, /** @type {number|null} */ all, more = "") => el("div", {},
    el("p", {}, el("strong", {}, name), " ", fill(say.freeOf, { free: size(free), all: size(all) }), more),
    el("meter", { min: 0, max: all ?? 1, value: (all ?? 0) - (free ?? 0), high: 0.9 * (all ?? 1), "aria-label": name }));
  return el("div", { className: "gauges" }, gauge(say.memory, memory.free_bytes, memory.total_bytes, ` ${fill(say.ofModels, { size: size(memory.models_bytes) })}`),
    gauge(say.disk, storage.free_bytes, storage.total_bytes));
}

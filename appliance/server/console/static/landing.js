/** The page on plain HTTP: what this device is, and the way to its page on HTTPS. It takes no key and no code. */

import { el } from "./dom.js";
import { fingerprint, first, owner } from "./first/print.js";
import { follow, identity, secured } from "./identity.js";
import { fill, language, words } from "./words.js";

const main = /** @type {HTMLElement} */ (document.getElementById("main"));

/** @param {import("./identity.js").Identity} told */
function show(told) {
  const url = told.url ?? "";
  const isName = location.hostname.endsWith(".local");
  const others = [...new Set([...(isName ? [] : [location.hostname.replace(/^\[|\]$/g, "")]), ...told.addresses])].slice(0, 6);
  const go = el("a", { className: "button main", href: url + location.hash }, words.landGo);
  const other = (/** @type {string} */ host) => el("li", {}, el("a", { href: secured(told, host) + location.hash }, secured(told, host)));
  main.replaceChildren(el("div", { className: "sheet" },
    el("h1", {}, fill(first.landTitle, { name: told.name.replace(/\.local$/, "") })),
    el("p", {}, first.landWhat),
    el("p", { className: "notice" }, told.claim === "claimed" ? owner(told) || first.landClaimed
      : told.claim === "off" ? first.landClaimed : first.landNew),
    el("p", {}, go), el("p", { className: "soft" }, url),
    el("h2", {}, first.landWarnTitle), el("p", {}, first.landWarn),
    el("figure", { className: "warning" },
      el("p", {}, el("strong", {}, first.landWarnHead)), el("p", {}, first.landWarnText),
      el("ol", {}, el("li", {}, first.landStep1), el("li", {}, fill(first.landStep2, { name: told.name })))),
    el("h2", {}, first.printTitle), el("p", {}, first.printHelp), fingerprint(told),
    ...(others.length ? [el("h2", {}, first.landOther), el("p", { className: "soft" }, first.landOtherHelp), el("ul", {}, ...others.map(other))] : []),
    el("h2", {}, first.landPlain), el("p", { className: "soft" }, first.landPlainHelp),
    el("p", {}, el("a", { href: "/?plain" }, first.landPlainGo))));
}

document.documentElement.lang = language;
document.title = "Lantern";
const skip = /** @type {HTMLElement} */ (document.getElementById("skip"));
skip.textContent = words.skip;
const told = await identity();
if (told) {
  show(told);
  follow(told, location.hash);
} else {
  main.replaceChildren(el("div", { className: "sheet" }, el("h1", {}, "Lantern"), el("p", { className: "notice bad" }, words.errorNetwork)));
}

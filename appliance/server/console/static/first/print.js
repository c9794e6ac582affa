/** The certificate and the owner of a device, in the words of its first start. */

import { copyButton, el, styled } from "../dom.js";
import { fill, language } from "../words.js";

const CLOCK_S = 1767225600; // 2026: a board without a clock starts in 1970

/** @type {Record<string, string>} */
export const first = (await import(`./${language}.js`)).words;

await styled(new URL("style.css", import.meta.url));

/** Return the fingerprint in its two forms, and where a browser shows it. @param {import("../identity.js").Identity} told */
export function fingerprint(told) {
  if (!told.certificate) return el("p", { hidden: true });
  const { fingerprint: hex, pin } = told.certificate;
  const pairs = hex.split(":");
  const groups = Array.from({ length: 4 }, (_, i) => pairs.slice(i * 8, i * 8 + 8).join(":"));
  return el("div", { className: "prints" },
    el("h3", {}, "SHA-256"), el("p", { className: "hex", "aria-label": hex }, ...groups.map((group) => el("span", {}, group))),
    el("p", { className: "soft" }, first.printWhere),
    el("details", {}, el("summary", {}, first.printPin), el("div", { className: "row" }, el("code", {}, pin), copyButton(() => pin))));
}

/** Return who claimed the device and when, or "". @param {import("../identity.js").Identity} told */
export function owner(told) {
  const by = told.claimed_by;
  if (!by?.name) return "";
  if (by.claimed < CLOCK_S) return fill(first.claimedBy, { name: by.name });
  const when = new Intl.DateTimeFormat(language, { dateStyle: "long", timeStyle: "short" }).format(by.claimed * 1000);
  return fill(first.claimedByAt, { name: by.name, when });
}

/** Markdown within a line: code, formulas, emphasis and links, as nodes. */

import { el } from "./dom.js";

const LONGEST = 20000;
const PATTERN = /`([^`]+)`|\\\((.{1,1000}?)\\\)|\$\$(.{1,1000}?)\$\$|\\([*_`#|~>+.!{}$-])|\*\*([^*]+)\*\*|__([^_]+)__|\*([^*\s][^*]*)\*|~~([^~]+)~~|\[([^\]]*)\]\(([^)\s]+)\)|(https?:\/\/[^\s<>"')\]]+[^\s<>"')\].,;:!?])/g;

/**
 * Return the nodes of a line; a line that is too long for people stays plain.
 * @param {string} text
 * @returns {(Node|string)[]}
 */
export function inline(text) {
  if (text.length > LONGEST) return [text];
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(PATTERN)) {
    nodes.push(text.slice(end, match.index), node(match));
    end = match.index + match[0].length;
  }
  nodes.push(text.slice(end));
  return nodes;
}

/** The maker of formulas, loaded with the first one. @type {null|((source: string, isDisplay: boolean) => Element|null)} */
let maker = null;

/**
 * Return a formula in the place of its source; where it is not understood, the source.
 * @param {HTMLElement} source
 * @param {string} text
 * @param {boolean} isDisplay
 * @param {Element} [place] the element that gives way, if that is more than the source
 */
export function math(source, text, isDisplay, place = source) {
  const show = () => {
    const made = maker?.(text, isDisplay);
    if (made) place.replaceWith(made);
    return made ?? source;
  };
  if (maker) return show();
  import("./formula.js").then(({ formula }) => { maker = formula; show(); }, () => null);
  return source;
}

/** @param {RegExpMatchArray} match */
function node([whole, code, tex, tex2, escaped, strong, strong2, em, gone, label, target, url]) {
  if (code !== undefined) return el("code", {}, code);
  if (tex ?? tex2) return math(el("code", { className: "formula" }, whole), tex ?? tex2, false);
  if (escaped) return escaped;
  if (gone !== undefined) return el("s", {}, ...inline(gone));
  if (strong ?? strong2) return el("strong", {}, ...inline(strong ?? strong2));
  if (em !== undefined) return el("em", {}, ...inline(em));
  return link(label || target || url, target ?? url) ?? whole;
}

/**
 * Return a link that leads out and tells nothing; null for a target that is no address of the web or of mail.
 * @param {string} label
 * @param {string} target
 */
function link(label, target) {
  if (!/^(https?:\/\/|mailto:)/i.test(target)) return null;
  const made = el("a", { href: target, rel: "noopener noreferrer", target: "_blank" }, label);
  return label.includes(made.host) ? made : el("span", {}, made, ` (${made.host || "mail"})`);
}

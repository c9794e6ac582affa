/** Formulas: a subset of TeX as MathML. What is not understood is left to its source. */

import { ACCENTS, DELIMITERS, FUNCTIONS, LARGE, LETTERS, SPACES, SYMBOLS, styled } from "./symbols.js";

const LONGEST = 4000, DEEPEST = 60;
const TOKEN = /\\(?:[A-Za-z]+\*?|[^])|[{}^_&~]|'+|\d+(?:\.\d+)?|\s+|[^]/gu;
const ENVIRONMENTS = /** @type {Record<string, string[]>} */ ({ matrix: ["", ""], smallmatrix: ["", ""], pmatrix: ["(", ")"], bmatrix: ["[", "]"], Bmatrix: ["{", "}"], vmatrix: ["|", "|"],
  Vmatrix: ["‖", "‖"], cases: ["{", ""], aligned: ["", ""], align: ["", ""], "align*": ["", ""], gathered: ["", ""], "gather*": ["", ""], array: ["", ""], split: ["", ""] });

/** @param {string} name @param {Record<string, string>} attributes @param {...(Node|string)} children @returns {Element} */
function m(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/1998/Math/MathML", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Return children as one. @param {Node[]} children @returns {Node} */
const one = (children) => children.length === 1 ? children[0] : m("mrow", {}, ...children);

/** A reader of one formula. */
class Reader {
  /** @param {string} source @param {boolean} isDisplay */
  constructor(source, isDisplay) {
    this.tokens = source.match(TOKEN) ?? [];
    this.at = 0;
    this.depth = 0;
    this.isDisplay = isDisplay;
  }

  /** Return the next token, which is no space. */
  peek() {
    while (/^\s/.test(this.tokens[this.at] ?? "")) this.at += 1;
    return this.tokens[this.at];
  }

  next() {
    const token = this.peek();
    if (token === undefined) throw new SyntaxError("the formula ends too early");
    this.at += 1;
    return token;
  }

  /** @param {string} token */
  expect(token) {
    const found = this.next();
    if (found !== token) throw new SyntaxError(`${found} where ${token} was expected`);
  }

  /** Read up to one of these tokens, which stays. @param {...string} ends @returns {Node[]} */
  row(...ends) {
    if ((this.depth += 1) > DEEPEST) throw new SyntaxError("the formula is too deep");
    const nodes = [];
    for (let token = this.peek(); token !== undefined && !ends.includes(token); token = this.peek()) nodes.push(this.scripted());
    this.depth -= 1;
    return nodes;
  }

  /** Read an atom with what stands above and below it. @returns {Node} */
  scripted() {
    const token = this.peek() ?? "";
    const isBare = token === "^" || token === "_" || token.startsWith("'");
    const isLarge = token in LARGE || FUNCTIONS[token] === true;
    const base = isBare ? m("mrow", {}) : this.atom();
    let below = null, above = null;
    for (let mark = this.peek(); mark === "^" || mark === "_" || mark?.startsWith("'"); mark = this.peek()) {
      this.next();
      if (mark === "_" ? below : above && mark === "^") throw new SyntaxError("two scripts in one place");
      if (mark === "_") below = this.argument();
      else if (mark === "^") above = this.argument();
      else above = this.primes(mark.length);
    }
    const isAround = isLarge && this.isDisplay && !/int/.test(token);
    if (below && above) return m(isAround ? "munderover" : "msubsup", {}, base, below, above);
    if (below) return m(isAround ? "munder" : "msub", {}, base, below);
    return above ? m(isAround ? "mover" : "msup", {}, base, above) : base;
  }

  /** Return primes, with what is raised beside them. @param {number} count @returns {Node} */
  primes(count) {
    const sign = m("mo", {}, "′".repeat(count));
    if (this.peek() !== "^") return sign;
    this.next();
    return m("mrow", {}, sign, this.argument());
  }

  /** Read a group or one atom. @returns {Node} */
  argument() {
    return this.atom();
  }

  /** @returns {Node} */
  atom() {
    const token = this.next();
    if (token === "{") {
      const inner = this.row("}");
      this.expect("}");
      return one(inner);
    }
    if (token in LETTERS) return m("mi", {}, LETTERS[token]);
    if (token in LARGE) return m("mo", { movablelimits: "false" }, LARGE[token]);
    if (token in FUNCTIONS) return m("mi", {}, token.slice(1));
    if (token in SPACES) return m("mspace", { width: SPACES[token] });
    if (token in SYMBOLS) return m("mo", {}, SYMBOLS[token]);
    if (token in ACCENTS) return this.accent(ACCENTS[token]);
    if (token.startsWith("\\")) return this.command(token.slice(1));
    if (/^\d/.test(token)) return m("mn", {}, token);
    if (/^\p{L}/u.test(token)) return m("mi", {}, token);
    if ("}&^_".includes(token)) throw new SyntaxError(`${token} has no place here`);
    if (token === "%" || token === "#" || token === "$") throw new SyntaxError("TeX's own signs");
    return "()[]|/".includes(token) ? m("mo", { stretchy: "false" }, token) : m("mo", {}, token === "-" ? "−" : token === "*" ? "∗" : token);
  }

  /** @param {string[]} accent */
  accent([sign, place]) {
    return place === "under" ? m("munder", { accentunder: "true" }, this.argument(), m("mo", {}, sign)) : m("mover", { accent: "true" }, this.argument(), m("mo", { stretchy: place === "wide" ? "true" : "false" }, sign));
  }

  /** @param {string} name @returns {Node} */
  command(name) {
    if (/^[dt]?frac$/.test(name)) return m("mfrac", {}, this.argument(), this.argument());
    if (/^[dt]?binom$/.test(name)) {
      return m("mrow", {}, m("mo", {}, "("), m("mfrac", { linethickness: "0" }, this.argument(), this.argument()), m("mo", {}, ")"));
    }
    if (name === "sqrt") return this.root();
    if (name === "left") return this.fenced();
    if (name === "begin") return this.environment();
    if (["text", "textrm", "textbf", "textit", "mbox", "operatorname", "operatorname*", "mathrm"].includes(name)) {
      const text = this.verbatim();
      return name.startsWith("operatorname") || name === "mathrm" ? m("mi", { mathvariant: "normal" }, text) : m("mtext", {}, text);
    }
    if (/^math(bb|bf|cal|frak|it|sf|tt)$|^boldsymbol$/.test(name)) return m("mi", {}, styled(name, this.verbatim()));
    if (name === "overset" || name === "stackrel") {
      const above = this.argument();
      return m("mover", {}, this.argument(), above);
    }
    if (name === "underset") {
      const below = this.argument();
      return m("munder", {}, this.argument(), below);
    }
    if (/^[bB]igg?[lrm]?$/.test(name)) return m("mo", { stretchy: "false", ...(name.length > 3 ? { largeop: "false" } : {}) }, this.delimiter());
    if (["displaystyle", "textstyle", "limits", "nolimits", "nonumber", "notag"].includes(name)) return m("mrow", {});
    if (name === "boxed") return m("mrow", { class: "boxed" }, this.argument());
    throw new SyntaxError(`\\${name} is not known`);
  }

  root() {
    if (this.peek() !== "[") return m("msqrt", {}, this.argument());
    this.next();
    const index = one(this.row("]"));
    this.expect("]");
    return m("mroot", {}, this.argument(), index);
  }

  delimiter() {
    const token = this.next();
    const sign = DELIMITERS[token] ?? (/^[()[\]|/<>]$/.test(token) ? token : null);
    if (sign === null) throw new SyntaxError(`${token} is no delimiter`);
    return sign;
  }

  fenced() {
    const open = this.delimiter();
    const inner = [];
    for (;;) {
      inner.push(...this.row("\\right", "\\middle"));
      if (this.next() === "\\right") break;
      inner.push(m("mo", { stretchy: "true" }, this.delimiter()));
    }
    return m("mrow", {}, m("mo", { stretchy: "true", form: "prefix" }, open), ...inner, m("mo", { stretchy: "true", form: "postfix" }, this.delimiter()));
  }

  /** Return the source of a group. */
  verbatim() {
    if (this.peek() !== "{") return this.next();
    this.next();
    let text = "";
    for (let depth = 1; ;) {
      const token = this.tokens[this.at++];
      if (token === undefined) throw new SyntaxError("a group that does not end");
      depth += token === "{" ? 1 : token === "}" ? -1 : 0;
      if (!depth) return text;
      if (token.startsWith("\\") && !/^\\[ ,;:%&#$_{}]/.test(token)) throw new SyntaxError("a command in a text");
      text += token.replace(/^\\/, "");
    }
  }

  environment() {
    const name = this.verbatim();
    const [open, close] = ENVIRONMENTS[name] ?? [null, null];
    if (open === null) throw new SyntaxError(`${name} is not known`);
    if (name === "array" && this.peek() === "{") this.verbatim();
    const rows = [[]];
    for (;;) {
      /** @type {Node[][]} */ (rows[rows.length - 1]).push(this.row("&", "\\\\", "\\end"));
      const token = this.next();
      if (token === "\\end") break;
      if (token === "\\\\") rows.push([]);
    }
    if (this.verbatim() !== name) throw new SyntaxError(`${name} does not end`);
    if (!(/** @type {Node[][]} */ (rows[rows.length - 1]).flat().length)) rows.pop();
    const isLeft = /^(align|aligned|split|cases)/.test(name);
    const table = m("mtable", isLeft ? { class: name === "cases" ? "cases" : "aligned" } : {},
      ...rows.map((row) => m("mtr", {}, .../** @type {Node[][]} */ (row).map((cell) => m("mtd", {}, ...cell)))));
    return m("mrow", {}, ...(open ? [m("mo", { stretchy: "true", form: "prefix" }, open)] : []), table, ...(close ? [m("mo", { stretchy: "true", form: "postfix" }, close)] : []));
  }
}

/** Return a formula, or null if it is not understood. @param {string} source @param {boolean} isDisplay @returns {Element|null} */
export function formula(source, isDisplay) {
  if (source.length > LONGEST) return null;
  try {
    const reader = new Reader(source, isDisplay);
    const nodes = reader.row();
    return m("math", { ...(isDisplay ? { display: "block" } : {}), alttext: source.trim(), tabindex: isDisplay ? "0" : "-1" }, m("mrow", {}, ...nodes));
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}

/** Markdown of an answer that grows: each whole line is rendered once, and only the last line again. */

import { codeBlock, el } from "./dom.js";
import { inline, math } from "./inline.js";

const LIVE = 2000, CELLS = 100, PART = 32;

/** Blocks below an element, fed line by line. */
class Blocks {
  /** @param {HTMLElement} parent */
  constructor(parent) {
    this.root = this.parent = parent;
    this.head = "";
    this.level = 2; // of the heading above, first that of the message
    this.paragraph = this.code = this.body = this.quote = this.formula = /** @type {any} */ (null);
    this.lists = /** @type {{indent: number, list: HTMLElement, item: HTMLElement}[]} */ ([]);
  }

  /** Begin a part where no block is open: what many neighbours cost a browser at each change grows with their number. */
  part() {
    if (this.parent.childElementCount < PART || this.paragraph || this.code || this.body || this.quote || this.formula || this.lists.length) return;
    const part = el("div", { className: "part" });
    this.root.append(part);
    this.parent = part;
  }

  /** End the open block. */
  close() {
    this.paragraph = null; this.code = null; this.body = null; this.quote = null; this.lists = [];
  }

  /** @param {string} line */
  add(line) {
    if (this.code) return this.addCode(line);
    if (this.formula) return this.addFormula(line);
    if (this.quote || /^ {0,3}>/.test(line)) if (this.addQuote(line)) return;
    const fence = /^(\s*)(`{3,}|~{3,})\s*([\w+#.-]*)/.exec(line);
    const item = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/.exec(line);
    const heading = /^(#{1,6})\s+(.*?)\s*#*$/.exec(line);
    const display = /^\s*(\$\$|\\\[)(?!.*(?:\$\$|\\\])\s*\S)(.*)$/.exec(line);
    if (display && !this.body) this.openFormula(display[1] === "$$" ? "$$" : "\\]", display[1], display[2]);
    else if (fence) this.openCode(fence[1].length, fence[2], fence[3]);
    else if (!line.trim()) { this.paragraph = null; this.body = null; }
    else if (/^ {0,3}([-*_])( *\1){2,} *$/.test(line)) this.append(el("hr"));
    else if (heading) this.addHeading(heading[1].length, heading[2]);
    else if (item) this.addItem(item[1].length, item[2], item[3]);
    else if (this.body) this.body.append(row("td", line));
    else if (this.head && this.paragraph && line.includes("-") && line.includes("|") && /^[\s|:-]+$/.test(line)) this.openTable();
    else this.addText(line);
  }

  /** @param {Node} block */
  append(block) {
    this.close();
    this.parent.append(block);
  }

  /** Add a heading, below the one above by one level at most. @param {number} level @param {string} text */
  addHeading(level, text) {
    this.level = Math.min(level + 2, this.level + 1, 6);
    this.append(el(`h${this.level}`, { dir: "auto" }, ...inline(text)));
  }

  /** @param {string} line */
  addText(line) {
    if (this.paragraph) {
      this.paragraph.append(el("br"), ...inline(line));
      this.head = "";
      return;
    }
    this.head = line.includes("|") ? line : "";
    const item = /^\s/.test(line) ? this.lists.at(-1)?.item : null;
    this.paragraph = el("p", { dir: "auto" }, ...inline(line));
    if (!item) this.lists = [];
    (item ?? this.parent).append(this.paragraph);
  }

  /** Make the line before, which was taken for a paragraph, the head of a table. */
  openTable() {
    this.body = el("tbody");
    const table = el("table", {}, el("thead", {}, row("th", this.head)), this.body);
    this.paragraph.replaceWith(el("div", { className: "table", tabIndex: 0 }, table));
    this.paragraph = null;
  }

  /** @param {number} indent @param {string} marker @param {string} text */
  addItem(indent, marker, text) {
    this.paragraph = this.body = null;
    while ((this.lists.at(-1)?.indent ?? 0) > indent + 1) this.lists.pop();
    const open = this.lists.at(-1);
    const item = el("li", { dir: "auto" }, ...inline(text));
    if (open && indent < open.indent + 2) {
      open.list.append(item);
      open.item = item;
      return;
    }
    const list = /\d/.test(marker) ? el("ol", { start: parseInt(marker, 10) }) : el("ul");
    list.append(item);
    (open?.item ?? this.parent).append(list);
    this.lists.push({ indent, list, item });
  }

  /** @param {number} indent @param {string} fence @param {string} language */
  openCode(indent, fence, language) {
    const parent = (indent >= 2 && this.lists.at(-1)?.item) || this.parent;
    const { block, node } = codeBlock(language);
    parent.append(block);
    if (parent === this.parent) this.lists = [];
    this.paragraph = this.body = null;
    this.code = { node, fence, indent, language };
  }

  /** Close a block of code, which gets its colours now. */
  endCode() {
    const { node, language } = this.code;
    this.code = null;
    if (language && node.data) import("./code.js").then(({ colour }) => colour(language, node), () => null);
  }

  /** Open a formula of its own lines; until it is closed its source is shown. @param {string} close @param {string} open @param {string} first */
  openFormula(close, open, first) {
    const parent = (/^\s/.test(first) && this.lists.at(-1)?.item) || this.parent;
    this.paragraph = this.body = null;
    const source = el("code", { className: "formula" }, open);
    const block = el("p", {}, source);
    parent.append(block);
    this.formula = { block, source, close, text: "", lines: [] };
    this.addFormula(first);
  }

  /** @param {string} line */
  addFormula(line) {
    const { block, source, close, lines } = this.formula;
    const end = line.indexOf(close);
    if (!line.trim() && lines.length) {
      this.formula = null;
      return;
    }
    lines.push(end < 0 ? line : line.slice(0, end));
    source.append(`${line}\n`);
    if (end < 0) return;
    this.formula = null;
    math(source, lines.join("\n"), true, block);
  }

  /** @param {string} line */
  addCode(line) {
    const { node, fence, indent } = this.code;
    const end = line.trim();
    if (end.startsWith(fence) && end === end[0].repeat(end.length)) this.endCode();
    else node.appendData(line.replace(new RegExp(`^\\s{0,${indent}}`), "") + "\n");
  }

  /** @param {string} line @returns {boolean} False if the line is no part of a quote. */
  addQuote(line) {
    const inner = /^ {0,3}> ?(.*)$/.exec(line);
    if (!inner) { this.quote = null; return false; }
    if (!this.quote) {
      const block = el("blockquote");
      this.append(block);
      this.quote = new Blocks(block);
    }
    this.quote.add(inner[1]);
    return true;
  }
}

/** @param {string} kind @param {string} line */
function row(kind, line) {
  const all = line.trim().replace(/^\||\|$/g, "").split("|");
  const cells = all.length > CELLS ? [...all.slice(0, CELLS - 1), all.slice(CELLS - 1).join("|")] : all;
  return el("tr", {}, ...cells.map((cell) => el(kind, { dir: "auto" }, ...inline(cell.trim()))));
}

/** An answer on the screen; `add` what comes, then `end`. */
export class Markdown {
  /** @param {HTMLElement} parent */
  constructor(parent) {
    this.blocks = new Blocks(parent);
    this.tail = "";
    this.live = el("div", { dir: "auto" });
    this.long = /** @type {Text|null} */ (null);
    parent.after(this.live);
  }

  /** @param {string} text */
  add(text) {
    const lines = text.split("\n");
    lines[0] = this.tail + lines[0];
    this.tail = lines.pop() ?? "";
    if (lines.length) { this.live.replaceChildren(); this.long = null; }
    for (const line of lines) {
      this.blocks.part();
      this.blocks.add(line.replace(/\r$/, ""));
    }
    this.showTail(lines.length ? this.tail : text);
  }

  /** Show the line that is not whole yet; beyond a length that people write, only what is new. @param {string} fresh */
  showTail(fresh) {
    if (this.tail.length <= LIVE) {
      this.live.replaceChildren(...(this.blocks.code ? [el("code", {}, this.tail)] : inline(this.tail)));
    } else if (!this.long) {
      this.live.replaceChildren(this.long = document.createTextNode(this.tail));
    } else if (this.long.length > 2 * LIVE) {
      this.live.append(this.long = document.createTextNode(fresh));
    } else {
      this.long.appendData(fresh);
    }
  }

  /** Take away the line that is not whole. */
  drop() {
    this.live.remove();
  }

  /** Render the last line. */
  end() {
    if (this.tail) this.blocks.add(this.tail);
    if (this.blocks.code) this.blocks.endCode();
    this.tail = "";
    this.live.remove();
  }
}

/** A plot of the last minutes: a line, its words, and a table of the same figures. */

import { el } from "../dom.js";
import { fill, number } from "../words.js";
import { say } from "./say.js";
import { svg } from "./svg.js";
import { table } from "./view.js";

const [WIDTH, HEIGHT] = [600, 100];
const MINUTE = 60;

/**
 * @typedef {{at: number, value: number|null}} Point
 */

/** One quantity over time; `show` is called with every change. */
export class Plot {
  /**
   * @param {string} name
   * @param {object} options
   * @param {(value: number) => string} [options.format]
   * @param {number} [options.most] the top of the scale, if that is known
   */
  constructor(name, { format = (value) => number(value, 1), most } = {}) {
    this.name = name;
    this.format = format;
    this.most = most;
    this.now = el("strong");
    this.line = svg("path", { class: "line" });
    this.area = svg("path", { class: "area" });
    this.svg = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" },
      svg("path", { class: "floor", d: `M0 ${HEIGHT - 1}H${WIDTH}` }), this.area, this.line);
    this.words = el("p");
    this.rows = el("div");
    this.details = el("details", {}, el("summary", { "aria-label": `${say.asTable}: ${name}` }, say.asTable), this.rows);
    this.element = el("figure", { className: "plot" }, el("figcaption", {}, el("span", {}, name), this.now), this.svg, this.words, this.details);
    this.details.addEventListener("toggle", () => this.tabulate());
    this.points = /** @type {Point[]} */ ([]);
  }

  /** @param {Point[]} points @param {number} span the width of the plot in seconds */
  show(points, span) {
    this.points = points;
    const known = /** @type {{at: number, value: number}[]} */ (points.filter((point) => point.value !== null));
    this.element.hidden = !known.length;
    if (!known.length) return;
    const values = known.map((point) => point.value);
    const highest = values.reduce((a, b) => Math.max(a, b)), last = values[values.length - 1];
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    const top = this.most ?? Math.max(highest * 1.1, 1);
    const end = known[known.length - 1].at;
    const x = (/** @type {number} */ at) => (WIDTH * (1 - (end - at) / span)).toFixed(1);
    const y = (/** @type {number} */ value) => (HEIGHT - 2 - (HEIGHT - 6) * Math.min(value / top, 1)).toFixed(1);
    const path = known.map((point, index) => `${index ? "L" : "M"}${x(point.at)} ${y(point.value)}`).join("");
    this.line.setAttribute("d", path);
    this.area.setAttribute("d", `${path}L${x(end)} ${HEIGHT}L${x(known[0].at)} ${HEIGHT}Z`);
    this.now.textContent = this.format(last);
    this.words.textContent = fill(say.plotWords, { mean: this.format(mean), most: this.format(highest), minutes: number(Math.ceil((end - known[0].at) / MINUTE)) });
    this.svg.setAttribute("aria-label", `${this.name}: ${this.now.textContent}. ${this.words.textContent}`);
    this.tabulate();
  }

  /** Fill the table, while somebody looks at it: the mean and the highest of each minute. */
  tabulate() {
    if (!this.details.open) return;
    const minutes = new Map();
    const end = this.points.at(-1)?.at ?? 0;
    for (const { at, value } of this.points) {
      const minute = Math.floor((end - at) / MINUTE);
      if (value !== null) minutes.set(minute, [...(minutes.get(minute) ?? []), value]);
    }
    this.rows.replaceChildren(table(this.name, [say.minutesAgo, say.mean, say.highest], [...minutes].sort(([a], [b]) => a - b).map(([minute, values]) => [
      number(minute), this.format(values.reduce((/** @type {number} */ a, /** @type {number} */ b) => a + b, 0) / values.length), this.format(Math.max(...values))])));
  }
}

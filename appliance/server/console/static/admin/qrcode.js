/** A QR code, drawn from the modules that the device computed. */

import { svg } from "./svg.js";

const QUIET = 4;

/** Return a drawing of rows of modules. @param {string[]} rows @param {string} name */
export function qrCode(rows, name) {
  const side = rows.length + 2 * QUIET;
  const path = rows.flatMap((row, y) => [...row.matchAll(/1+/g)].map(
    (run) => `M${/** @type {number} */ (run.index) + QUIET} ${y + QUIET}h${run[0].length}v1h-${run[0].length}z`)).join("");
  return svg("svg", { viewBox: `0 0 ${side} ${side}`, class: "qr", role: "img", "aria-label": name, "shape-rendering": "crispEdges" },
    svg("path", { d: `M0 0h${side}v${side}h-${side}z`, fill: "#fff" }), svg("path", { d: path, fill: "#000" }));
}

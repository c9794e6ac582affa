/** A map of vectors: as far apart on the plane as the two widest directions of their cloud allow. */

import { say } from "./say.js";
import { svg } from "./svg.js";

const [WIDTH, HEIGHT, EDGE] = [600, 360, 40];
const ROUNDS = 60;

/** Return the cosine of two unit vectors. @param {number[]} a @param {number[]} b */
export function cosine(a, b) {
  return a.reduce((sum, value, index) => sum + value * b[index], 0);
}

/** Return a place on the plane for each vector. @param {number[][]} vectors @returns {[number, number][]} */
export function places(vectors) {
  const centre = vectors[0].map((_, axis) => vectors.reduce((sum, vector) => sum + vector[axis], 0) / vectors.length);
  const moved = vectors.map((vector) => vector.map((value, axis) => value - centre[axis]));
  const gram = moved.map((a) => moved.map((b) => cosine(a, b)));
  const first = widest(gram), second = widest(gram, first);
  return vectors.map((_, index) => [first[index], second[index]]);
}

/** Return the coordinates along the widest direction, or along the next one. @param {number[][]} gram @param {number[]} [known] */
function widest(gram, known) {
  let vector = gram.map((_, index) => Math.cos(index + 1)), scale = 0;
  for (let round = 0; round < ROUNDS; round += 1) {
    if (known) {
      const norm = cosine(known, known) || 1, along = cosine(vector, known) / norm;
      vector = vector.map((value, index) => value - along * known[index]);
    }
    const next = gram.map((row) => cosine(row, vector));
    scale = Math.sqrt(cosine(next, next));
    if (!scale) return vector.map(() => 0);
    vector = next.map((value) => value / scale);
  }
  return vector.map((value) => value * Math.sqrt(scale));
}

/** Draw the map; the texts are numbered as in the table beside it. @param {number[][]} vectors */
export function map(vectors) {
  const spots = places(vectors);
  const reach = Math.max(...spots.flat().map(Math.abs), 1e-9);
  const x = (/** @type {number} */ value) => WIDTH / 2 + value / reach * (WIDTH / 2 - EDGE);
  const y = (/** @type {number} */ value) => HEIGHT / 2 - value / reach * (HEIGHT / 2 - EDGE);
  const marks = spots.map(([across, up], index) => svg("g", {}, svg("circle", { cx: x(across), cy: y(up), r: 5 }),
    svg("text", { x: x(across) + 8, y: y(up) + 4 }, String(index + 1))));
  return svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "map", role: "img", "aria-label": say.mapWords }, ...marks);
}

/** The playground: embeddings of texts with a map of their distances, and documents in the order of their relevance. */

import { el, field } from "../dom.js";
import { fill, number, words } from "../words.js";
import { cosine, map } from "./map.js";
import { say } from "./say.js";
import { Sheet, ask, form, table } from "./view.js";

const MOST = 50;

/** @param {HTMLTextAreaElement} area */
function lines(area) {
  return area.value.split("\n").map((line) => line.trim()).filter(Boolean).slice(0, MOST);
}

/** Return the view. */
export function playgroundView() {
  const sheet = new Sheet(words.playground, say.playgroundHelp);
  sheet.fill(async () => {
    const { data } = await ask("/v1/models");
    const of = (/** @type {string} */ kind) => data.filter((/** @type {any} */ one) => one.kind === kind).map((/** @type {any} */ one) => one.id);
    return [...part(say.embeddingsTitle, say.embeddingsHelp, of("encoder"), (models) => embeddings(sheet, models)),
      ...part(say.rerankTitle, say.rerankHelp, of("reranker"), (models) => reranking(sheet, models))];
  });
  return sheet.element;
}

/** @param {string} title @param {string} help @param {string[]} models @param {(models: string[]) => Node} make */
function part(title, help, models, make) {
  return [el("h2", {}, title), el("p", { className: "soft" }, help), models.length ? make(models) : el("p", { className: "notice" }, say.noSuchModel)];
}

/** @param {string[]} models */
function choice(models) {
  return el("select", { name: "model" }, ...models.map((model) => el("option", { value: model }, model)));
}

/** @param {Sheet} sheet @param {string[]} models */
function embeddings(sheet, models) {
  const model = choice(models), found = el("div", { role: "status" });
  const texts = el("textarea", { rows: 6, required: true, dir: "auto", name: "texts", value: say.exampleTexts });
  const submit = el("button", { className: "main" }, say.embed);
  return el("div", {}, form(sheet, submit, async () => {
    const input = lines(texts);
    const { data, usage } = await ask("/v1/embeddings", { json: { model: model.value, input, encoding_format: "float" } });
    const vectors = data.map((/** @type {any} */ one) => one.embedding);
    found.replaceChildren(el("p", { className: "soft" }, fill(say.embedded, { count: number(input.length), dimensions: number(vectors[0].length), tokens: number(usage.total_tokens) })),
      ...(vectors.length > 2 ? [map(vectors)] : []), similarities(input, vectors));
  }, field(words.model, model), field(say.textsField, texts, "field wide")), found);
}

/** @param {string[]} texts @param {number[][]} vectors */
function similarities(texts, vectors) {
  return table(say.similarity, ["#", say.text, ...texts.map((_, index) => String(index + 1))], texts.map((text, row) => [
    String(row + 1), el("span", { dir: "auto" }, text), ...vectors.map((vector) => number(cosine(vectors[row], vector), 2))]));
}

/** @param {Sheet} sheet @param {string[]} models */
function reranking(sheet, models) {
  const model = choice(models), found = el("div", { role: "status" });
  const query = el("input", { required: true, dir: "auto", name: "query", value: say.exampleQuery });
  const documents = el("textarea", { rows: 6, required: true, dir: "auto", name: "documents", value: say.exampleTexts });
  const submit = el("button", { className: "main" }, say.rank);
  return el("div", {}, form(sheet, submit, async () => {
    const asked = lines(documents);
    const { results } = await ask("/v1/rerank", { json: { model: model.value, query: query.value, documents: asked } });
    found.replaceChildren(table(say.order, ["#", say.relevance, say.text], results.map((/** @type {any} */ one, /** @type {number} */ index) => [
      String(index + 1), number(one.relevance_score, 3), el("span", { dir: "auto" }, asked[one.index])])));
  }, field(words.model, model), field(say.queryField, query, "field wide"), field(say.documentsField, documents, "field wide")), found);
}

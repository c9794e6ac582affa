/** The words of the page in the reader's language. */

const LANGUAGES = ["en", "de", "fr"];
const wanted = navigator.languages.map((tag) => tag.slice(0, 2));

export const language = wanted.find((tag) => LANGUAGES.includes(tag)) ?? "en";

/** @type {Record<string, string>} */
export const words = (await import(`./${language}.js`)).words;

/**
 * Return a text with its places filled.
 * @param {string} text
 * @param {Record<string, string|number>} values
 */
export function fill(text, values) {
  return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}

const formats = /** @type {Intl.NumberFormat[]} */ ([]); // slow to make

/** @param {number} value @param {number} digits */
export function number(value, digits = 0) {
  return (formats[digits] ??= new Intl.NumberFormat(language, { maximumFractionDigits: digits })).format(value);
}

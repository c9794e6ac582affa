/** The settings of a chat: its system prompt, how tokens are drawn, and the form of the answers. */

import { el, field } from "./dom.js";
import { words } from "./words.js";

const NUMBERS = [
  { name: "temperature", label: words.temperature, min: 0, max: 2, step: 0.1, placeholder: "1" },
  { name: "top_p", label: words.topP, min: 0, max: 1, step: 0.05, placeholder: "1" },
  { name: "max_output_tokens", label: words.maxTokens, min: 1, max: 1000000, step: 1, placeholder: words.noLimit },
];

/** Return the fields, which change the chat at once; the next question keeps them. @param {import("./history.js").Chat} chat */
export function settings(chat) {
  const system = el("textarea", { rows: 2, name: "system", dir: "auto", value: chat.system });
  system.addEventListener("input", () => { chat.system = system.value; });
  const numbers = NUMBERS.map(({ name, label, ...range }) => {
    const input = el("input", { type: "number", name, value: chat.settings[name] ?? "", ...range });
    input.addEventListener("input", () => set(chat, name, input.value));
    return field(label, input);
  });
  return el("div", { className: "row options" }, ...numbers, field(words.system, system, "field wide"), schema(chat), shorter(chat));
}

/** @param {import("./history.js").Chat} chat */
function shorter(chat) {
  const box = el("input", { type: "checkbox", name: "truncation", checked: Boolean(chat.settings.truncation) });
  box.addEventListener("change", () => set(chat, "truncation", box.checked ? "auto" : ""));
  return el("label", { className: "tick" }, box, words.leaveOut);
}

/** @param {import("./history.js").Chat} chat */
function schema(chat) {
  const text = el("textarea", { rows: 3, name: "schema", spellcheck: false, value: chat.settings.schema ?? "", placeholder: '{"type": "object", "properties": {…}}' });
  text.addEventListener("input", () => {
    text.setCustomValidity(isSchema(text.value) ? "" : words.badSchema);
    set(chat, "schema", text.value.trim());
  });
  return field(words.schema, text, "field wide");
}

/** Return true for a JSON object, or for no text. @param {string} text */
function isSchema(text) {
  if (!text.trim()) return true;
  try {
    const value = JSON.parse(text);
    return value !== null && typeof value === "object" && !Array.isArray(value);
  } catch {
    return false;
  }
}

/** @param {import("./history.js").Chat} chat @param {string} name @param {string} value */
function set(chat, name, value) {
  const { [name]: _, ...rest } = chat.settings;
  chat.settings = value === "" ? rest : { ...rest, [name]: value };
}

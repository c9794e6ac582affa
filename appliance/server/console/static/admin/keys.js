/** The keys view: make a key, which is shown once, change its rate, see its last use, revoke it. */

import { codeBlock, el, field } from "../dom.js";
import { fill, number, words } from "../words.js";
import { qrCode } from "./qrcode.js";
import { say, when } from "./say.js";
import { Sheet, ask, confirmed, form, table } from "./view.js";

const ROLES = ["inference", "administration"];

/**
 * Make a key.
 * @param {string} name
 * @param {string} role
 * @param {number} [rate]
 * @returns {Promise<{name: string, key: string}>}
 */
export function makeKey(name, role, rate) {
  return ask("/admin/keys", { json: { name, role, rate: rate || null } });
}

/** The key that was made last, until it is copied: it could not be shown again by a view that was left meanwhile. */
const fresh = el("div");

/** Return the view. */
export function keysView() {
  const sheet = new Sheet(say.keysTitle, say.keysHelp);
  const list = el("div");

  const show = (/** @type {any} */ { keys }) => {
    list.replaceChildren(table(say.keysTitle, [say.name, say.role, say.rate, say.created, say.lastUsed, say.acts],
      keys.map((/** @type {any} */ key) => [el("strong", { dir: "auto" }, key.name), say[key.role], rateOf(key.rate), when(key.created),
        when(key.last_used), acts(key)])));
  };

  const rateOf = (/** @type {number|null} */ rate) => rate ? fill(say.perMinute, { rate: number(rate) }) : say.anyRate;

  /** @param {any} key */
  function acts(key) {
    const path = `/admin/keys/${encodeURIComponent(key.name)}`;
    const revoke = sheet.button(say.revoke, async () => {
      if (!await confirmed(fill(say.revokeAsk, { name: key.name }), say.revoke)) return;
      show(await ask(path, { method: "DELETE" }));
      return fill(say.revoked, { name: key.name });
    }, "small danger");
    revoke.setAttribute("aria-label", `${say.revoke}: ${key.name}`);
    const rate = el("input", { type: "number", min: "1", max: "1000000", value: key.rate ?? "", placeholder: say.anyRate, name: "rate" });
    const set = el("button", { className: "small" }, say.save);
    const change = el("details", { className: "inline" }, el("summary", { "aria-label": `${say.changeRate}: ${key.name}` }, say.changeRate),
      form(sheet, set, async () => {
        show(await ask(path, { method: "PATCH", json: { rate: Number(rate.value) || null } }));
        return fill(say.rateChanged, { name: key.name });
      }, field(say.rateField, rate)));
    return el("div", { className: "row" }, change, revoke);
  }

  /** Show a new key, this once. @param {{name: string, key: string}} made */
  async function reveal(made) {
    const address = `${location.origin}/#key=${made.key}`;
    const { rows } = await ask("/admin/qr", { json: { text: address } }).catch(() => ({ rows: null })); // the key itself has to be shown
    const done = el("button", { type: "button", className: "main" }, say.keyDone);
    const card = el("section", { className: "card fresh", tabIndex: -1, "aria-label": fill(say.keyMade, { name: made.name }) },
      el("h2", {}, fill(say.keyMade, { name: made.name })), el("p", {}, say.keyOnce), codeBlock(words.keyLabel, made.key).block,
      el("div", { className: "row" }, ...(rows ? [qrCode(rows, say.keyQr), el("p", { className: "soft" }, say.keyQrHelp)] : [])), done);
    done.addEventListener("click", () => { fresh.replaceChildren(); /** @type {HTMLElement|null} */ (document.querySelector("[name=name]"))?.focus(); });
    fresh.replaceChildren(card);
    card.focus();
  }

  const name = el("input", { required: true, maxLength: 64, pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]*", name: "name", autocomplete: "off", placeholder: say.keyNameExample });
  const role = el("select", { name: "role" }, ...ROLES.map((one) => el("option", { value: one }, say[one])));
  const rate = el("input", { type: "number", min: "1", max: "1000000", placeholder: say.anyRate, name: "rate" });
  const create = el("button", { className: "main" }, say.keyCreate);
  const making = form(sheet, create, async () => {
    const made = await makeKey(name.value.trim(), role.value, Number(rate.value));
    name.value = rate.value = "";
    await reveal(made);
    show(await ask("/admin/keys"));
  }, field(say.name, name), field(say.role, role), field(say.rateField, rate));

  sheet.fill(async () => {
    show(await ask("/admin/keys"));
    return [el("h2", {}, say.keyNew), making, el("p", { className: "soft" }, say.keyNames), fresh, el("h2", {}, say.keysTitle), list];
  });
  return sheet.element;
}

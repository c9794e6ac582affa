/** The view of a device that belongs to nobody: whoever has the code on its screen makes it theirs. */

import { Failure, send, setKey } from "./api.js";
import { codeBlock, el, field } from "./dom.js";
import { fingerprint, first, owner } from "./first/print.js";
import { identity, isHere, secured } from "./identity.js";
import { words } from "./words.js";

const OWN_WORDS = { claim_code_required: "claimCodeNeeded", wrong_claim_code: "claimWrong", too_many_claim_codes: "error429" };

/** Return the name as keys are named: letters, digits, dots and dashes. @param {string} text */
function keyName(text) {
  return text.normalize("NFKD").replace(/[\u0300-\u036f]/g, "").replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[^A-Za-z0-9]+|-+$/g, "").slice(0, 64);
}

/**
 * Return the view.
 * @param {string} given The code of the address, or "".
 * @param {() => void} claimed Called when the device has an owner.
 * @param {() => void} done Called when the owner goes on.
 */
export async function claimView(given, claimed, done) {
  const view = el("div", { className: "sheet" });
  document.title = `${first.claimTitle} – Lantern`;
  const told = await identity();
  if (!told) view.append(el("h1", {}, first.claimTitle), el("p", { className: "notice bad" }, words.errorNetwork));
  else if (told.claim === "claimed" || told.claim === "off") taken(view, owner(told));
  else form(view, told, given, (key) => { claimed(); mine(view, key, done); });
  return view;
}

/** @param {HTMLElement} view @param {string} by */
function taken(view, by) {
  view.replaceChildren(el("h1", {}, first.claimTaken), el("p", { className: "notice bad", role: "alert" }, by || first.landClaimed),
    el("p", {}, first.claimTakenHelp));
}

/** @param {HTMLElement} view @param {import("./identity.js").Identity} told @param {string} given @param {(key: string) => void} claimed */
function form(view, told, given, claimed) {
  const code = el("input", { name: "code", value: given, autocomplete: "off", autocapitalize: "characters", spellcheck: false, className: "codefield", placeholder: "XXXX-XXXX", required: true });
  const name = el("input", { name: "owner", value: "owner", autocomplete: "off", spellcheck: false, maxLength: 64, required: true });
  const remember = el("input", { type: "checkbox", name: "remember", checked: true });
  const wrong = el("p", { className: "notice bad", role: "alert", hidden: true });
  const submit = el("button", { className: "main" }, first.claimGo);
  const isPlain = location.protocol === "http:" && told.url && !isHere();
  const needsCode = told.claim === "code";
  const entry = el("form", {}, el("div", { className: "row claim" }, ...(needsCode ? [field(first.claimCode, code)] : []), field(first.claimName, name)),
    el("label", { className: "tick" }, remember, first.claimRemember), wrong, el("p", {}, submit));
  view.replaceChildren(el("h1", {}, first.claimTitle), el("p", {}, first.claimHelp),
    ...(isPlain ? [el("p", { className: "notice bad" }, first.claimPlain, " ", el("a", { href: `${secured(told, location.hostname)}#claim=${given}` }, words.landGo))] : []),
    ...(needsCode ? [el("p", { className: "soft" }, first.claimWhere)] : []),
    entry,
    ...(told.certificate ? [el("h2", {}, first.printTitle), el("p", {}, first.printHelp), fingerprint(told)] : []));

  requestAnimationFrame(() => (needsCode && !given ? code : submit).focus());
  entry.addEventListener("submit", async (/** @type {Event} */ event) => {
    event.preventDefault();
    submit.disabled = true;
    wrong.hidden = true;
    try {
      const body = { name: keyName(name.value) || "owner", ...(needsCode ? { code: code.value } : {}) };
      const { key } = await (await send("/admin/claim", { json: body })).json();
      setKey(key, remember.checked);
      claimed(key);
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      const own = OWN_WORDS[/** @type {keyof typeof OWN_WORDS} */ (error.code)];
      if (error.code === "already_claimed") return taken(view, owner(await identity() ?? told));
      wrong.textContent = own && own !== "error429" ? first[own] : error.message;
      wrong.hidden = false;
      submit.disabled = false;
      code.select();
      code.focus();
    }
  });
}

/** Show the key, this once. @param {HTMLElement} view @param {string} key @param {() => void} done */
function mine(view, key, done) {
  const go = el("button", { type: "button", className: "main" }, first.claimChat);
  go.addEventListener("click", done);
  view.replaceChildren(el("h1", {}, first.claimDone), el("p", {}, first.claimKey), codeBlock(words.keyLabel, key).block,
    el("p", { className: "notice" }, first.claimKeep), el("p", {}, go));
  go.focus();
}

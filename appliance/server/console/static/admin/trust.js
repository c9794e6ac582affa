/** The signing keys whose bundles run on this device. */

import { codeBlock, el, field } from "../dom.js";
import { fill } from "../words.js";
import { say } from "./say.js";
import { ask, confirmed, form } from "./view.js";

/** Return the card. @param {import("./view.js").Sheet} sheet @param {() => Promise<void>} changed */
export function trustCard(sheet, changed) {
  const list = el("ul", { className: "plain" });
  const pem = el("textarea", { rows: 4, required: true, spellcheck: false, placeholder: "-----BEGIN PUBLIC KEY-----", name: "pem" });
  const add = el("button", {}, say.trustAdd);

  const show = (/** @type {any} */ { trusted }) => {
    if (!trusted.length) list.replaceChildren(el("li", { className: "soft" }, say.none));
    else list.replaceChildren(...trusted.map((/** @type {string} */ signer) => {
      const remove = sheet.button(say.trustRemove, async () => {
        if (!await confirmed(fill(say.trustRemoveAsk, { name: signer }), say.trustRemove)) return;
        show(await ask(`/admin/trust/${encodeURIComponent(signer)}`, { method: "DELETE" }));
        await changed();
        return fill(say.trustRemoved, { name: signer });
      }, "small danger");
      remove.setAttribute("aria-label", `${say.trustRemove}: ${signer}`);
      return el("li", { className: "row" }, el("code", {}, signer), remove);
    }));
  };

  const adding = form(sheet, add, async () => {
    await listed; // else an older list could come later
    const answer = await ask("/admin/trust", { json: { public_key: `${pem.value.trim()}\n` } });
    pem.value = "";
    show(answer);
    await changed();
    return fill(say.trustAdded, { name: answer.added });
  }, field(say.trustField, pem, "field wide"));

  const listed = ask("/admin/trust").then(show, (error) => sheet.tell(error.message, true));
  return el("div", {}, list, el("details", {}, el("summary", {}, say.trustNew), adding,
    el("p", { className: "soft" }, say.trustHelp), codeBlock("sh", "lantern-quantize keygen --public signer.pem").block));
}

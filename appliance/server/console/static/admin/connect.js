/** The connect view: programs that use this device, with its address in them and a key made at a click. */

import { codeBlock, el } from "../dom.js";
import { identity, isHere } from "../identity.js";
import { fill } from "../words.js";
import { makeKey } from "./keys.js";
import { say } from "./say.js";
import { saveCertificate, snippets } from "./snippets.js";
import { Sheet, ask } from "./view.js";

const NO_KEY = "YOUR_KEY";

/** Return the view. */
export function connectView() {
  const sheet = new Sheet(say.connectTitle, say.connectHelp);
  const facts = { base: `${location.origin}/v1`, key: NO_KEY, chat: "MODEL", isTls: location.protocol === "https:" };
  const all = el("div");
  const show = () => all.replaceChildren(...snippets(facts, say).map(({ name, language, text, help }) =>
    el("section", { "aria-label": name }, el("h2", {}, name), ...(help ? [el("p", { className: "soft" }, help)] : []), codeBlock(language, text).block)));

  const make = sheet.button(say.connectMake, async () => {
    const suffix = Array.from(crypto.getRandomValues(new Uint8Array(3)), (byte) => byte.toString(16).padStart(2, "0")).join("");
    const made = await makeKey(`program-${suffix}`, "inference");
    facts.key = made.key;
    show();
    return fill(say.connectMade, { name: made.name });
  }, "main");

  sheet.fill(async () => {
    const models = (await ask("/v1/models").catch(() => ({ data: [] }))).data;
    facts.chat = models.find((/** @type {any} */ one) => one.kind === "decoder")?.id ?? "MODEL";
    const own = facts.isTls && !isHere() ? (await identity())?.url : null;
    if (own) facts.base = `${own}v1`;
    show();
    return [codeBlock("URL", facts.base).block, el("p", { className: "soft" }, say.connectKey), el("p", { className: "row" }, make, el("span", { className: "soft" }, say.connectMakeHelp)),
      ...(facts.isTls ? [el("p", { className: "notice" }, say.certificateSave), codeBlock("sh", saveCertificate(facts.base)).block] : []), all];
  });
  return sheet.element;
}

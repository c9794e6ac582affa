/** The page: its views and the state of the device. */

import { health, lendKey } from "./api.js";
import { ChatView } from "./chat.js";
import { el } from "./dom.js";
import { follow, identity, isHere } from "./identity.js";
import { language, words } from "./words.js";

const POLL_MS = 15000;

const main = /** @type {HTMLElement} */ (document.getElementById("main"));
const tabs = /** @type {HTMLElement} */ (document.getElementById("tabs"));
const state = /** @type {HTMLElement} */ (document.getElementById("state"));
const arrived = location.hash;
let chat = /** @type {ChatView|null} */ (null);
let secret = takeSecret();
let isClaiming = false;
chat = new ChatView();

/** The views; all but the chat are loaded when they are opened. @type {Record<string, () => HTMLElement|Promise<HTMLElement>>} */
const VIEWS = {
  chat: () => chat.element,
  playground: async () => (await import("./admin/playground.js")).playgroundView(),
  connect: async () => (await import("./admin/connect.js")).connectView(),
  models: async () => (await import("./admin/models.js")).modelsView(),
  keys: async () => (await import("./admin/keys.js")).keysView(),
  device: async () => (await import("./admin/device.js")).deviceView(),
};
/** @type {HTMLAnchorElement[]} */
const links = Object.keys(VIEWS).map((view) => el("a", { href: `#${view}` }, words[view]));
let turn = 0;

/** Take a code or a key out of the address, where neither the history nor a look at the screen finds it. */
function takeSecret() {
  const [, name, value] = /^#(claim|key)=(.*)$/.exec(location.hash) ?? [];
  if (!name) return "";
  history.replaceState(null, "", location.pathname + location.search);
  if (name === "key") {
    lendKey(decodeURIComponent(value));
    chat?.loadModels();
  }
  return name === "claim" ? decodeURIComponent(value) : "";
}

/** Let a device without an owner be claimed, in the place of every view. */
async function claim() {
  isClaiming = true;
  const { claimView } = await import("./claim.js").catch(() => ({ claimView: null }));
  if (!claimView) { isClaiming = false; return; } // the next poll tries again
  tabs.replaceChildren();
  main.replaceChildren(await claimView(secret, poll, () => { isClaiming = false; chat?.loadModels(); show(); }));
}

/** Say that others can read along, where the device has HTTPS; under another name go to its own one. */
async function settle() {
  const told = isHere() ? null : await identity();
  if (!told?.url) return;
  if (location.protocol === "https:") await follow(told, arrived);
  else main.before(el("p", { className: "notice bad plain" }, words.plain, " ", el("a", { href: told.url }, words.landGo)));
}

/** Show the view that the address names. */
async function show() {
  if (isClaiming) return;
  const name = location.hash.slice(1) in VIEWS ? location.hash.slice(1) : "chat";
  const mine = ++turn;
  if (!tabs.firstChild) tabs.append(...links);
  for (const link of links) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${words[name]} – Lantern`;
  const view = await Promise.resolve(VIEWS[name]()).catch((error) => {
    console.error(error);
    return unloaded(name);
  });
  if (turn === mine && !isClaiming) main.replaceChildren(view);
}

/** Return what stands in the place of a view that could not be loaded. @param {string} name */
function unloaded(name) {
  const again = el("button", { type: "button" }, words.retry);
  again.addEventListener("click", () => location.reload());
  return el("div", { className: "sheet" }, el("h1", {}, words[name]), el("p", { className: "notice bad", role: "alert" }, words.errorNetwork), again);
}

/** Say how the device is; asked for only while somebody looks. */
async function poll() {
  if (document.hidden) return;
  const told = await health();
  const status = told?.status ?? "away";
  const text = words[status] ?? words.away;
  if (state.textContent !== text) state.textContent = text;
  state.className = `state ${["ok", "degraded", "unclaimed"].includes(status) ? "good" : "bad"}`;
  state.title = status === "safe" ? words.safeHelp : "";
  if (status === "unclaimed" && !isClaiming) claim();
}

document.documentElement.lang = language;
tabs.setAttribute("aria-label", words.views);
const skip = /** @type {HTMLElement} */ (document.getElementById("skip"));
skip.textContent = words.skip;
skip.addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
addEventListener("hashchange", () => { secret = takeSecret() || secret; show(); });
document.addEventListener("visibilitychange", poll);
setInterval(poll, POLL_MS);
show();
poll().then(() => { for (const name of ["rename", "search", "settings", "transfer", "versions"]) import(`./${name}.js`).catch(() => {}); }); // for when the device is away
settle();

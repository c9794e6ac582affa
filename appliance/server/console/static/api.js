/** Requests to the device, with the key that the reader entered, and failures in plain words. */

import { fill, words } from "./words.js";

const KEY = "lantern.key";

/** @param {() => Storage} storage @param {(storage: Storage) => any} act */
function tried(storage, act) {
  try { return act(storage()); } catch { return null; }
}

let held = tried(() => sessionStorage, (s) => s.getItem(KEY)) ?? tried(() => localStorage, (s) => s.getItem(KEY)) ?? "";

/** Return the key, or "". */
export function key() {
  return held;
}

/**
 * Use a key from now on; it is forgotten with the tab unless it is to be remembered.
 * @param {string} value
 * @param {boolean} remember
 */
export function setKey(value, remember) {
  held = value;
  for (const storage of [() => sessionStorage, () => localStorage]) tried(storage, (s) => s.removeItem(KEY));
  if (value) tried(() => remember ? localStorage : sessionStorage, (s) => s.setItem(KEY, value));
}

/** Use a key in this tab alone; a remembered one stays for others. @param {string} value */
export function lendKey(value) {
  held = value;
  tried(() => sessionStorage, (s) => s.setItem(KEY, value));
}

/** A refusal or a lost connection, with a message for people. */
export class Failure extends Error {
  /**
   * @param {string} message
   * @param {number} [status] of the answer; none if the device could not be reached
   * @param {string|null} [code]
   * @param {string|null} [param] the field that was refused
   */
  constructor(message, status, code = null, param = null) {
    super(message);
    this.status = status;
    this.code = code;
    this.param = param;
    this.wantsKey = status === 401 && code !== "unclaimed";
  }
}

/**
 * Send a request, a POST if it has a body, and return the answer.
 * @param {string} path
 * @param {RequestInit & {json?: object}} [options]
 * @returns {Promise<Response>}
 */
export async function send(path, { json, ...options } = {}) {
  /** @type {Record<string, string>} */
  const headers = held ? { authorization: `Bearer ${held}` } : {};
  if (json) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method: json ? "POST" : "GET", body: json && JSON.stringify(json), cache: "no-store", ...options, headers: { ...headers, ...options.headers } });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Failure(words.errorNetwork);
  }
  if (!answer.ok) throw await failure(answer);
  return answer;
}

/** @param {Response} answer */
async function failure(answer) {
  const error = (await answer.json().catch(() => null))?.error;
  const message = error?.message ?? answer.statusText;
  if (error?.code === "unclaimed") return new Failure(words.unclaimed, answer.status, error.code);
  const seconds = answer.headers.get("retry-after") ?? "5";
  const isTold = answer.status !== 403 || error?.code === "forbidden";
  const text = (isTold && words[`error${answer.status}`]) || words.errorOther;
  return new Failure(fill(text, { message, seconds }), answer.status, error?.code, error?.param);
}

/** Return what /health says, whatever its status; null if nobody answers. */
export async function health() {
  try {
    return await (await fetch("/health", { cache: "no-store" })).json();
  } catch {
    return null;
  }
}

/** An answer that the device makes in the background: begun, and followed over lost connections and sleep. */

import { Failure, send } from "./api.js";
import { fill, words } from "./words.js";

const SILENT_MS = 15000, ASLEEP_MS = 7000, LONGEST_MS = 600000; // the device pings every 5 s, and keeps events 10 minutes
const NAMED_MS = 4000; // a device that is there names an answer at once
const FIRST_PAUSE_MS = 300, LONGEST_PAUSE_MS = 8000;

/**
 * Yield the events of an answer from `place` on, once each; without an id it is begun. A lost connection is made anew.
 * @param {object} request
 * @param {{id: string, seen: number}} place
 * @param {AbortSignal} signal
 * @param {(isLost: boolean) => void} told
 */
export async function* follow(request, place, signal, told) {
  let { id, seen } = place, heard = performance.now(), pause = FIRST_PAUSE_MS;
  for (;;) {
    signal.throwIfAborted();
    const line = new Line(signal, !id);
    try {
      const path = `/v1/responses/${id}?stream=true${seen < 0 ? "" : `&starting_after=${seen}`}`;
      const response = await (id ? send(path, { signal: line.signal }) : begin(request, line.signal));
      told(false);
      for await (const event of events(response, () => { line.touch(); heard = performance.now(); })) {
        [pause, seen] = [FIRST_PAUSE_MS, event.sequence_number];
        if (event.response?.background) id = event.response.id;
        yield event;
        line.heed();
      }
      return;
    } catch (error) {
      const failed = /** @type {any} */ (error);
      if (signal.aborted || !id || performance.now() - heard > LONGEST_MS) throw error;
      if (failed.status === 400 || failed.status === 404) throw new Failure(words.errorBroken, failed.status);
      if (failed.status && failed.status !== 503 && failed.status !== 429) throw error;
      told(true);
    } finally {
      line.close();
    }
    await rest(pause, signal);
    pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
  }
}

/** Begin an answer in the background; where the device stores nothing, one that ends with its connection. @param {object} request @param {AbortSignal} signal */
async function begin(request, signal) {
  try {
    return await send("/v1/responses", { json: { ...request, background: true }, signal });
  } catch (error) {
    if (/** @type {any} */ (error).param !== "background") throw error;
    return send("/v1/responses", { json: { ...request, store: false }, signal });
  }
}

/**
 * Yield the JSON of each event (HTML standard, section 9.2.6), up to [DONE]; a stream that ends before it is broken.
 * EventSource sends no key, therefore this.
 * @param {Response} answer
 * @param {() => void} [heard] Called with every sign of life.
 */
async function* events(answer, heard = () => {}) {
  const reader = /** @type {ReadableStream} */ (answer.body).getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : new Failure(words.errorBroken);
    });
    heard();
    if (done) throw new Failure(words.errorBroken);
    const lines = (rest + decoder.decode(value, { stream: true })).split(/\r?\n/);
    rest = lines.pop() ?? "";
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Failure(fill(words.errorOther, { message: event.error.message }));
      yield event;
    }
  }
}

/** End an answer that runs, and let the device forget it. @param {string} id */
export async function forget(id) {
  await send(`/v1/responses/${id}`, { method: "DELETE", keepalive: true }).catch(() => null);
}

/** Wait for a while, or until there is a network or a reader again. @param {number} ms @param {AbortSignal} signal */
function rest(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(done, ms);
    const places = /** @type {[EventTarget, string][]} */ ([[window, "online"], [document, "visibilitychange"], [signal, "abort"]]);
    function done() {
      clearTimeout(timer);
      for (const [place, name] of places) place.removeEventListener(name, done);
      resolve(null);
    }
    for (const [place, name] of places) place.addEventListener(name, done);
  });
}

/** One connection; given up when it is silent, since sockets of a device that slept stay open without a word. */
class Line {
  /** @param {AbortSignal} signal @param {boolean} isFirst */
  constructor(signal, isFirst) {
    this.control = new AbortController();
    this.outer = signal;
    this.heard = performance.now();
    this.end = () => this.control.abort();
    this.wake = () => { if (!document.hidden) this.check(ASLEEP_MS); };
    this.timer = setInterval(() => this.check(SILENT_MS), SILENT_MS / 3);
    this.late = () => setTimeout(this.end, NAMED_MS);
    document.addEventListener("visibilitychange", this.wake);
    if (!isFirst) this.heed();
    else signal.addEventListener("abort", this.late); // until its name is known, nobody could end the answer on the device
  }

  /** End the line with its signal, from now on. */
  heed() {
    this.outer.removeEventListener("abort", this.late);
    this.outer.addEventListener("abort", this.end);
    if (this.outer.aborted) this.end();
  }

  get signal() {
    return this.control.signal;
  }

  touch() {
    this.heard = performance.now();
  }

  /** @param {number} most */
  check(most) {
    if (performance.now() - this.heard > most) this.end();
  }

  close() {
    clearInterval(this.timer);
    this.outer.removeEventListener("abort", this.late);
    this.outer.removeEventListener("abort", this.end);
    document.removeEventListener("visibilitychange", this.wake);
    this.end();
  }
}

/** The device's figures, asked for once a second while somebody looks, and its plots. */

import { Failure } from "../api.js";
import { el } from "../dom.js";
import { fill, number, words } from "../words.js";
import { Plot } from "./plot.js";
import { say, size, span, when } from "./say.js";
import { ask, facts, table } from "./view.js";

const POLL_MS = 1000;
const AWAY_MS = 3000;
const SPAN_S = 600;

/** The live part of the device view. */
export class Live {
  /** @param {() => void} returned is called when the device is back after a restart */
  constructor(returned) {
    this.returned = returned;
    this.state = el("div");
    this.stale = el("p", { className: "notice bad", role: "status", hidden: true }, say.stale);
    const perSecond = (/** @type {number} */ value) => fill(words.speed, { rate: number(value, 1) });
    const percent = (/** @type {number} */ value) => `${number(value)} %`;
    const plot = (/** @type {string} */ column, /** @type {string} */ name, options = {}) => ({ column, plot: new Plot(name, options) });
    this.plots = [
      plot("generated_tokens_per_s", say.generated, { format: perSecond }), plot("prompt_tokens_per_s", say.read, { format: perSecond }),
      plot("running", say.numRunning), plot("waiting", say.numWaiting), plot("processor_percent", say.processor, { format: percent, most: 100 }),
      plot("memory_free_bytes", say.memoryFree, { format: size }), plot("temperature_c", say.temperature, { format: (/** @type {number} */ value) => `${number(value)} °C`, most: 100 }),
    ];
    this.throttled = el("p", { className: "soft" });
    this.element = el("div", {}, this.stale, this.state, el("h2", {}, say.lastMinutes),
      el("div", { className: "plots" }, ...this.plots.map(({ plot: { element } }) => element)), this.throttled);
    this.history = /** @type {any} */ (null);
    this.started = 0;
    this.wasAway = false;
    this.timer = 0;
    document.addEventListener("visibilitychange", () => this.wake());
  }

  /** Ask at once if the view is seen again. */
  wake() {
    this.poll();
  }

  /** Ask for what is new, and again until the view is left; a hidden page asks nothing. */
  async poll() {
    clearTimeout(this.timer);
    if (document.hidden || !this.element.isConnected) return;
    let wait = POLL_MS;
    try {
      await this.once();
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      this.stale.textContent = error.status ? error.message : say.stale;
      this.stale.hidden = false;
      wait = AWAY_MS;
    }
    clearTimeout(this.timer);
    if (this.element.isConnected && !document.hidden) this.timer = setTimeout(() => this.poll(), wait);
  }

  /** Ask for the state and what is new in the history; where nothing is shown yet, a failure is the caller's. @returns {Promise<void>} */
  async once() {
    const since = this.history ? `?since=${this.history.at_s.at(-1)}` : "";
    const told = await ask(`/admin/status${since}`);
    if (!this.stale.hidden) this.wasAway = true;
    if (this.history && told.started !== this.started) { // it may have been away between two looks
      this.wasAway = true;
      this.history = null;
      this.started = told.started;
      return this.once();
    }
    this.started = told.started;
    this.stale.hidden = true;
    this.extend(told.history);
    this.show(told);
    if (this.wasAway) this.returned();
    this.wasAway = false;
  }

  /** @param {any} more */
  extend(more) {
    if (!this.history) this.history = more;
    else {
      const last = this.history.at_s.at(-1), news = more.at_s.filter((/** @type {number} */ at) => at > last).length; // another answer may have brought some
      for (const [name, column] of Object.entries(more)) if (Array.isArray(column) && news) this.history[name].push(...column.slice(-news));
      const excess = this.history.at_s.length - SPAN_S / this.history.interval_s;
      if (excess > 0) for (const column of Object.values(this.history)) if (Array.isArray(column)) column.splice(0, excess);
    }
  }

  /** @param {any} told */
  show(told) {
    const { at_s: times, throttled } = this.history;
    for (const { column, plot } of this.plots) {
      plot.show(times.map((/** @type {number} */ at, /** @type {number} */ index) => ({ at, value: this.history[column][index] })), SPAN_S);
    }
    const seconds = throttled.filter(Boolean).length * this.history.interval_s;
    this.throttled.textContent = seconds ? fill(say.wasThrottled, { span: span(seconds) }) : say.neverThrottled;
    const help = words[`${told.status}Help`];
    const { temperature_c: heat, throttled: isHot, under_voltage: isWeak } = told.heat;
    const engines = Object.entries(told.engines).map(([name, counts]) => {
      const { num_running: running, num_slots: slots, num_waiting: waiting } = /** @type {any} */ (counts);
      return [el("span", { dir: "auto" }, name), fill(say.slotsUsed, { running: number(running), slots: number(slots) }), number(waiting)];
    });
    const pairs = /** @type {[string, string][]} */ ([
      [say.status, words[told.status] ?? told.status], [say.name, told.name], [say.version, told.version],
      [say.running, fill(say.since, { time: when(told.started) })], [say.temperature, heat === null ? say.noSensor : `${number(heat)} °C`],
      [say.throttled, isHot ? say.yes : say.no], [say.underVoltage, isWeak ? say.yes : say.no],
      [say.memory, space(told.memory)], [say.disk, space(told.storage)]]);
    this.state.replaceChildren(...(help ? [el("p", { className: "notice" }, help)] : []),
      ...told.faults.map((/** @type {string} */ fault) => el("p", { className: "notice bad", dir: "auto" }, fault)), facts(pairs),
      ...(engines.length ? [table(words.models, [words.model, say.numRunning, say.numWaiting], engines)] : []));
  }
}

/** Return how much of a memory or a storage is free. @param {{free_bytes: number|null, total_bytes: number|null}|null} told */
function space(told) {
  return told?.total_bytes ? fill(say.freeOf, { free: size(told.free_bytes), all: size(told.total_bytes) }) : say.unknown;
}

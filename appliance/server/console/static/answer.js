/** One answer: asked for or gone on with, streamed into a message, counted. */

import { Failure, health } from "./api.js";
import { follow, forget } from "./follow.js";
import { fill, number, words } from "./words.js";

const SAVE_MS = 1000, WAIT_MS = 2000;

/**
 * Ask for a message of a chat, or go on with one that was begun, and let the view grow; texts are shown once a frame.
 * @param {import("./history.js").Thread} thread
 * @param {import("./message.js").MessageView} view
 * @param {AbortSignal} signal
 * @param {{shown: () => void, save: () => void, say: (text: string, isShown?: boolean) => void}} report
 */
export async function answer(thread, view, signal, { shown, save, say }) {
  const { message } = view;
  const place = { id: message.response ?? "", seen: message.seen ?? -1 };
  const count = { chunks: 0, first: 0, last: 0, usage: /** @type {any} */ (null), isWhole: !place.id };
  let text = "", thoughts = "", left = 0, frame = 0, saved = -SAVE_MS; // the first text is kept at once
  const show = () => {
    frame = 0;
    if (thoughts) view.addThoughts(thoughts);
    if (text) view.add(text);
    text = thoughts = "";
    message.seen = place.seen;
    if (performance.now() - saved >= SAVE_MS) {
      save();
      view.foot.textContent = figures(count);
      saved = performance.now();
    }
    shown(); // last, since it asks for the layout
  };
  const told = (/** @type {boolean} */ isLost) => {
    if (isLost) count.isWhole = false;
    say(isLost ? words.reconnecting : words.answering, isLost);
  };
  let isWaiting = true;
  const waiting = setInterval(async () => { // until the device itself tells
    const reason = isWaiting ? await wait() : "";
    if (isWaiting) view.wait(reason);
    else clearInterval(waiting);
  }, WAIT_MS);
  try {
    for await (const event of follow(request(thread, message), { ...place }, signal, told)) {
      place.seen = event.sequence_number;
      if (event.response?.background && !message.response) {
        [message.response, message.seen] = [event.response.id, place.seen];
        save();
      }
      count.usage = event.response?.usage ?? count.usage;
      if (event.type === "response.failed") throw new Failure(fill(words.errorOther, { message: event.response.error.message }));
      if (event.type === "response.incomplete") message.note = event.response.status === "cancelled" ? words.stopped : words.cut;
      left = event.response?.messages_left_out ?? left;
      if (!event.delta) {
        const { queue_position: place, prompt_progress: read } = event;
        if (place) view.wait(fill(words.place, { place: number(place) }));
        if (read) view.wait(fill(words.readTokens, { processed: number(read.processed), total: number(read.total) }), read.processed / read.total);
        if (place || read) isWaiting = false;
        continue;
      }
      if (!count.chunks) { isWaiting = false; view.wait(""); }
      if (event.type === "response.output_text.delta") text += event.delta;
      else thoughts += event.delta;
      count.chunks += 1;
      count.last = performance.now();
      count.first ||= count.last;
      frame ||= document.hidden ? setTimeout(show, SAVE_MS) : requestAnimationFrame(show);
    }
  } catch (error) {
    if (/** @type {any} */ (error).status !== 400 || !message.response || !await (await import("./whole.js")).whole(view, count)) throw error;
    text = thoughts = "";
  } finally {
    isWaiting = false;
    clearInterval(waiting);
    view.wait("");
    cancelAnimationFrame(frame);
    clearTimeout(frame);
    show();
    message.foot = figures(count);
    if (left) message.note = [fill(words.leftOut, { count: number(left) }), message.note].join(" ").trim();
    if (count.usage) message.used = count.usage.total_tokens;
    const id = message.response;
    delete message.response;
    delete message.seen;
    if (id) forget(id);
  }
}

/** Return why nothing of the answer is there yet: others are before it, or its prompt is being read. */
async function wait() {
  const engines = Object.values((await health())?.engines ?? {});
  const ahead = engines.reduce((sum, one) => sum + one.num_waiting, 0);
  return ahead ? fill(words.queued, { count: number(ahead) }) : words.readingPrompt;
}

/** Return the request for a message: all that stands above it, and the settings of its chat. @param {import("./history.js").Thread} thread @param {import("./history.js").Message} message */
function request({ chat, byId }, message) {
  const input = [];
  for (let at = byId.get(message.parent ?? ""); at; at = byId.get(at.parent ?? "")) input.unshift({ role: at.role, content: content(at) });
  const { schema, truncation, ...numbers } = chat.settings;
  return { model: chat.model, input, stream: true, return_progress: true, ...(truncation ? { truncation } : {}), ...(chat.system.trim() ? { instructions: chat.system } : {}),
    ...Object.fromEntries(Object.entries(numbers).map(([name, value]) => [name, Number(value)])),
    ...(schema ? { text: { format: { type: "json_schema", name: "answer", schema: JSON.parse(schema) } } } : {}) };
}

/** Return what a message says, after the texts that are attached to it. @param {import("./history.js").Message} message */
function content({ content: said, files = [] }) {
  return [...files.map(({ name, text }) => `[${name}]\n${text}\n[/${name}]`), ...(said ? [said] : [])].join("\n\n");
}

/** @param {{chunks: number, first: number, last: number, usage: any, isWhole: boolean}} count */
function figures({ chunks, first, last, usage, isWhole }) {
  const tokens = usage?.output_tokens ?? chunks;
  const told = [];
  if (isWhole && tokens > 1 && last > first) told.push(fill(words.speed, { rate: number((tokens - 1) * 1000 / (last - first), 1) }));
  if (usage) told.push(fill(words.used, { used: number(usage.total_tokens) }));
  return told.join(" · ");
}

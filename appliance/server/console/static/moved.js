/** Chats that an earlier page kept in localStorage: copied, counted and only then taken; the old ones stay where they are. */

import { nameOf } from "./history.js";

/**
 * Copy what is newer than the last time, within one transaction of the store.
 * @param {import("./store.js").Tables} tables
 * @param {string} name of the older store
 * @param {string} content
 */
export async function movedFrom({ chats, messages, marks }, name, content) {
  const mark = await marks.get(name);
  const old = read(content).filter(({ chat }) => chat.at > (mark?.at ?? -1));
  if (!old.length) return;
  // All at once: to wait for each of thousands of messages would keep the list empty for as long.
  const counts = await Promise.all(old.map(async (entry) => {
    const known = await chats.get(entry.chat.id);
    await Promise.all([chats.put({ ...entry.chat, name: known?.name ?? entry.chat.name }), ...entry.messages.map((message) => messages.put(message))]);
    const there = new Set((await messages.of(entry.chat.id)).map(({ id }) => id));
    return entry.messages.filter(({ id }) => there.has(id)).length;
  }));
  const count = counts.reduce((sum, one) => sum + one, 0);
  const wanted = old.reduce((sum, entry) => sum + entry.messages.length, 0);
  if (count !== wanted) throw new Error(`${count} of ${wanted} messages were copied`);
  await marks.put({ id: name, at: Math.max(...old.map(({ chat }) => chat.at)), chats: old.length, messages: count });
}

/** @param {string} content @returns {{chat: import("./history.js").Chat, messages: import("./history.js").Message[]}[]} */
function read(content) {
  let all;
  try {
    all = JSON.parse(content);
  } catch {
    return [];
  }
  return Array.isArray(all) ? all.filter((one) => typeof one?.id === "string" && Array.isArray(one.messages)).map(asTree) : [];
}

/** Return a chat of that store, whose messages stood in a line. @param {any} old */
function asTree({ id, model, system, temperature, messages, at }) {
  const chain = messages.map((/** @type {any} */ message, /** @type {number} */ index) => ({
    ...message, id: `${id}-${index}`, chat: id, parent: index ? `${id}-${index - 1}` : null, at: (Number(at) || 0) + index }));
  /** @type {import("./history.js").Chat} */
  const chat = { id, name: nameOf(String(messages[0]?.content ?? "")), model: model ?? "", system: system ?? "",
    settings: temperature ? { temperature: String(temperature) } : {}, leaf: chain.at(-1)?.id ?? null, at: Number(at) || 0 };
  return { chat, messages: chain };
}

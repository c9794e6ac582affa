/** All chats as one file, to take them to another browser. */

import { fill, number, words } from "./words.js";

const FORMAT = "lantern-chats", VERSION = 1;

/**
 * @typedef {import("./history.js").Chat} Chat
 * @typedef {import("./history.js").Message} Message
 */

/** Save every chat with all its branches as a file; return what to tell. @param {import("./store.js").Store} store */
export async function exportChats(store) {
  const all = [];
  for (const chat of await store.chats()) all.push({ chat, messages: await store.messages(chat.id) });
  const file = { format: FORMAT, version: VERSION, exported: new Date().toISOString(), chats: all.map(({ chat, messages }) => ({ ...chat, messages })) };
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(file)], { type: "application/json" }));
  link.download = `lantern-chats-${file.exported.slice(0, 10)}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  return fill(words.exported, { count: number(all.length) });
}

/** Add the chats of a file to those that are here; return what to tell. @param {import("./store.js").Store} store @param {File} file */
export async function importChats(store, file) {
  let chats;
  try {
    chats = read(JSON.parse(await file.text()));
  } catch {
    return words.noChatsFile;
  }
  /** @param {import("./store.js").Table} table @param {{id: string}[]} rows */
  const put = (table, rows) => Promise.all(rows.map(async (row) => table.put({ ...row, ...(await table.get(row.id)) })));
  const add = (/** @type {import("./store.js").Tables} */ tables) => // beside what is kept, all or none, and no wait for each
    Promise.all([put(tables.chats, chats.map(({ chat }) => chat)), put(tables.messages, chats.flatMap(({ messages }) => messages))]);
  return await store.change(add, "") ? fill(words.imported, { count: number(chats.length) }) : words.full;
}

/** Return the chats of a file. @param {any} file @returns {{chat: Chat, messages: Message[]}[]} */
function read(file) {
  if (file.format !== FORMAT || !(file.version <= VERSION) || !Array.isArray(file.chats)) throw new TypeError("another format");
  return file.chats.map((/** @type {any} */ one) => {
    const id = text(one.id);
    const chat = { id, name: text(one.name), model: text(one.model), system: text(one.system), settings: texts(one.settings), leaf: one.leaf === null ? null : text(one.leaf), at: count(one.at) };
    return { chat, messages: sound(one.messages.map((/** @type {any} */ message) => readMessage(message, id))) };
  });
}

/** @param {any} one @param {string} chat @returns {Message} */
function readMessage(one, chat) {
  if (one.role !== "user" && one.role !== "assistant") throw new TypeError("an unknown role");
  /** @type {Message} */
  const message = { id: text(one.id), chat, parent: one.parent === null ? null : text(one.parent), role: one.role, content: text(one.content), at: count(one.at) };
  if (one.thoughts !== undefined) message.thoughts = text(one.thoughts);
  if (one.note !== undefined) message.note = text(one.note);
  if (one.foot !== undefined) message.foot = text(one.foot);
  if (one.used !== undefined) message.used = count(one.used);
  if (one.files) message.files = one.files.map((/** @type {any} */ file) => ({ name: text(file.name), text: text(file.text) }));
  return message;
}

/** Return messages that hang together: each parent is there and earlier, so that no branch leads round. @param {Message[]} messages */
function sound(messages) {
  const seen = new Set();
  const left = [...messages].sort((a, b) => a.at - b.at);
  for (let grew = true; grew;) {
    grew = false;
    for (const message of left) {
      if (seen.has(message.id) || !(message.parent === null || seen.has(message.parent))) continue;
      seen.add(message.id);
      grew = true;
    }
  }
  if (seen.size !== messages.length) throw new TypeError("messages without their parents");
  return messages;
}

/** @param {unknown} value */
function text(value) {
  if (typeof value !== "string") throw new TypeError("no text");
  return value;
}

/** @param {unknown} value */
function count(value) {
  if (typeof value !== "number" || !Number.isFinite(value)) throw new TypeError("no number");
  return value;
}

/** @param {any} value @returns {Record<string, string>} */
function texts(value) {
  return Object.fromEntries(Object.entries(value ?? {}).map(([name, one]) => [name, text(one)]));
}

/** The search in kept chats. */

/**
 * @typedef {import("./history.js").Chat} Chat
 * @typedef {import("./history.js").Message} Message
 */

/**
 * Return the chats in whose name or messages a text stands, each with some of its latest such message.
 * @param {import("./store.js").Store} store @param {string} text @returns {Promise<{chat: Chat, message?: Message, part?: string}[]>}
 */
export async function search(store, text) {
  const wanted = plain(text);
  const messages = await store.run("readonly", (tables) => tables.messages.all()).catch(() => []);
  const hits = new Map();
  for (const message of messages) if (plain(message.content).includes(wanted)) hits.set(message.chat, message);
  const found = (await store.chats()).filter((chat) => hits.has(chat.id) || plain(chat.name).includes(wanted));
  return found.map((chat) => ({ chat, message: hits.get(chat.id), part: hits.has(chat.id) ? around(hits.get(chat.id).content, text) : undefined }));
}

/** Return some of a text, from a little before what is searched for. @param {string} text @param {string} wanted */
function around(text, wanted) {
  const start = Math.max(text.toLowerCase().indexOf(wanted.toLowerCase()) - 20, 0);
  return `${start ? "…" : ""}${[...text.slice(start, start + 90)].join("").toWellFormed()}`;
}

/** Return a text as people search for it: without case and accents. @param {string} text */
function plain(text) {
  return text.normalize("NFKD").replace(/[\u0300-\u036f]/g, "").toLowerCase();
}

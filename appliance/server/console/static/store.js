/** The chats that this browser keeps, in a database of its own; where that is forbidden, in memory until the page is left. */

import { words } from "./words.js";

/**
 * @typedef {import("./history.js").Chat} Chat
 * @typedef {import("./history.js").Message} Message
 * @typedef {{get: (key: string) => Promise<any>, all: () => Promise<any[]>, of: (chat: string) => Promise<any[]>, put: (value: any) => Promise<any>,
 *   remove: (key: string) => Promise<any>}} Table
 * @typedef {{chats: Table, messages: Table, marks: Table}} Tables
 */

const NAME = "lantern", VERSION = 1;
const TABLES = ["chats", "messages", "marks"];
const OLD = "lantern.chats.1"; // chats in localStorage, as a page of before kept them

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** @param {IDBObjectStore} store @returns {Table} */
function kept(store) {
  return { get: (key) => done(store.get(key)), all: () => done(store.getAll()), of: (chat) => done(store.index("chat").getAll(chat)),
    put: (value) => done(store.put(value)), remove: (key) => done(store.delete(key)) };
}

/** @returns {Promise<IDBDatabase>} */
function openDatabase() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, VERSION);
    request.onupgradeneeded = () => {
      const { result: database } = request;
      database.createObjectStore("chats", { keyPath: "id" });
      database.createObjectStore("messages", { keyPath: "id" }).createIndex("chat", "chat");
      database.createObjectStore("marks", { keyPath: "id" });
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new DOMException("blocked", "VersionError"));
  });
}

/**
 * Open the store, and take over what an earlier page kept.
 * @param {(chat: string) => void} changed called when another tab changed a chat
 * @param {(problem: string) => void} failed called when nothing is kept from now on, with the reason
 */
export async function openStore(changed, failed) {
  const move = await mover();
  try {
    const store = new Store(await openDatabase(), changed, failed);
    await store.run("readwrite", move);
    return store;
  } catch (error) {
    failed(/** @type {any} */ (error).name === "VersionError" ? words.storeNewer : words.full);
    const { held } = await import("./memory.js");
    const store = new Store(null, changed, failed, { chats: held(), messages: held(), marks: held() });
    await store.run("readwrite", move);
    return store;
  }
}

/** Return what takes over older chats; its module is loaded where there are any. @returns {Promise<(tables: Tables) => Promise<void>>} */
async function mover() {
  let old = null;
  try { old = localStorage.getItem(OLD); } catch { /* storage is forbidden */ }
  if (!old) return async () => {};
  const { movedFrom } = await import("./moved.js");
  return (tables) => movedFrom(tables, OLD, old);
}

/** Chats and their messages; each change is one transaction, and a chat that was deleted stays so. */
export class Store {
  /** @param {IDBDatabase|null} database @param {(chat: string) => void} changed @param {(problem: string) => void} failed @param {Tables} [memory] without a database */
  constructor(database, changed, failed, memory) {
    this.database = database;
    this.memory = memory;
    this.failed = failed;
    this.others = new BroadcastChannel(NAME);
    this.others.onmessage = ({ data }) => changed(data);
    if (!database) return;
    database.onversionchange = () => { database.close(); failed(words.storeNewer); };
    database.onclose = () => failed(words.full);
  }

  /**
   * Do some work on the tables, all of it or nothing.
   * @template T
   * @param {"readonly"|"readwrite"} mode
   * @param {(tables: Tables) => Promise<T>} work
   * @returns {Promise<T>}
   */
  async run(mode, work) {
    if (!this.database) return work(/** @type {Tables} */ (this.memory));
    const transaction = this.database.transaction(TABLES, mode);
    const ended = new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error);
    });
    ended.catch(() => null);
    const [chats, messages, marks] = TABLES.map((name) => kept(transaction.objectStore(name)));
    let result;
    try {
      result = await work({ chats, messages, marks });
    } catch (error) {
      try { transaction.abort(); } catch { /* it has ended already */ }
      throw error;
    }
    await ended;
    return result;
  }

  /**
   * Change the tables and tell other tabs.
   * @param {(tables: Tables) => Promise<any>} work
   * @param {string} [chat] none if others need not know
   * @returns {Promise<boolean>} False if the browser refuses, as where its storage is full.
   */
  async change(work, chat) {
    try {
      await this.run("readwrite", work);
    } catch {
      return false;
    }
    if (chat !== undefined) this.others.postMessage(chat);
    return true;
  }

  /** Return the chats, the latest first. @returns {Promise<Chat[]>} */
  async chats() {
    const all = await this.run("readonly", ({ chats }) => chats.all()).catch(() => []);
    return all.sort((a, b) => b.at - a.at);
  }

  /** Return the messages of a chat. @param {string} chat @returns {Promise<Message[]>} */
  messages(chat) {
    return this.run("readonly", ({ messages }) => messages.of(chat)).catch(() => []);
  }

  /** Return a message as it is kept. @param {string} id @returns {Promise<Message|undefined>} */
  message(id) {
    return this.run("readonly", ({ messages }) => messages.get(id)).catch(() => undefined);
  }

  /** Keep a chat and new messages; where the chat is new or was deleted, all its messages. @param {import("./history.js").Thread} thread @param {Message[]} fresh */
  async begin({ chat, byId }, fresh) {
    chat.at = Date.now();
    return this.change(async ({ chats, messages }) => {
      const known = await chats.get(chat.id);
      await chats.put({ ...chat, name: known?.name ?? chat.name });
      for (const message of known ? fresh : byId.values()) await messages.put(message);
    }, chat.id);
  }

  /** Keep a message as it is now; one that grew further in another tab stays. @param {Message} message @param {boolean} [isWhole] */
  save(message, isWhole = false) {
    return this.change(async ({ chats, messages }) => {
      const [chat, known] = [await chats.get(message.chat), await messages.get(message.id)];
      const isBehind = known && (known.response ? message.response && (known.seen ?? -1) > (message.seen ?? -1) : message.response && known.content);
      if (chat && !isBehind) await messages.put(message);
    }, isWhole ? message.chat : undefined);
  }

  /** Change fields of a chat. @param {string} id @param {Partial<Chat>} fields @param {boolean} [isTold] */
  update(id, fields, isTold = true) {
    return this.change(async ({ chats }) => {
      const chat = await chats.get(id);
      if (chat) await chats.put({ ...chat, ...fields });
    }, isTold ? id : undefined);
  }

  /** @param {string} id */
  remove(id) {
    return this.change(async ({ chats, messages }) => {
      await chats.remove(id);
      await Promise.all((await messages.of(id)).map((message) => messages.remove(message.id)));
    }, id);
  }
}

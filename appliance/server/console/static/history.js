/** Chats as trees: each message hangs below the one that it follows, so that another question or answer makes a branch. */

/**
 * @typedef {{name: string, text: string}} Attached
 * @typedef {{id: string, chat: string, parent: string|null, role: "user"|"assistant", content: string, at: number, files?: Attached[],
 *   thoughts?: string, note?: string, foot?: string, used?: number, response?: string, seen?: number, isTooLong?: boolean}} Message
 * @typedef {Record<string, string>} Settings
 * @typedef {{id: string, name: string, model: string, system: string, settings: Settings, leaf: string|null, at: number}} Chat
 */

const NAME = 80;

/** Return a name that no other chat or message has. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Return an empty chat. @param {Partial<Chat>} [like] @returns {Chat} */
export function newChat(like = {}) {
  return { id: newId(), name: "", model: like.model ?? "", system: like.system ?? "", settings: { ...like.settings }, leaf: null, at: 0 };
}

/** Return the name of a chat that begins with this question. @param {string} question */
export function nameOf(question) {
  return [...question.trim().replace(/\s+/g, " ")].slice(0, NAME).join("");
}

/** A chat with all its messages; those from the first one to the leaf are seen. */
export class Thread {
  /** @param {Chat} [chat] @param {Message[]} [messages] */
  constructor(chat = newChat(), messages = []) {
    this.chat = chat;
    this.byId = /** @type {Map<string, Message>} */ (new Map());
    this.children = /** @type {Map<string|null, Message[]>} */ (new Map());
    for (const message of messages) this.insert(message);
    if (!this.byId.has(chat.leaf ?? "")) chat.leaf = this.last(null)?.id ?? null;
  }

  /** Take a message in, or a newer state of it. @param {Message} message */
  insert(message) {
    const known = this.byId.get(message.id);
    if (known) {
      Object.assign(known, message);
      return;
    }
    this.byId.set(message.id, message);
    const siblings = this.children.get(message.parent) ?? [];
    siblings.push(message);
    siblings.sort((a, b) => a.at - b.at || (a.id < b.id ? -1 : 1));
    this.children.set(message.parent, siblings);
  }

  /** Return the messages that are seen. @returns {Message[]} */
  path() {
    const path = [];
    for (let at = this.byId.get(this.chat.leaf ?? ""); at; at = this.byId.get(at.parent ?? "")) path.unshift(at);
    return path;
  }

  /** Return a message and the others in its place. @param {Message} message */
  siblings(message) {
    return this.children.get(message.parent) ?? [];
  }

  /** Return the end of the newest branch below a message. @param {string|null} id @returns {Message|undefined} */
  last(id) {
    let found;
    for (let next = this.children.get(id)?.at(-1); next; next = this.children.get(next.id)?.at(-1)) found = next;
    return found;
  }

  /** Go to the newest branch that has this message. @param {Message} message */
  choose(message) {
    this.chat.leaf = (this.last(message.id) ?? message).id;
  }

  /**
   * Hang a new message below a parent, and go there.
   * @param {"user"|"assistant"} role @param {string|null} parent @param {string} content @param {Attached[]} [files]
   * @returns {Message}
   */
  add(role, parent, content, files = []) {
    const before = this.byId.get(parent ?? "")?.at ?? 0;
    const message = { id: newId(), chat: this.chat.id, parent, role, content, at: Math.max(Date.now(), before + 1), ...(files.length ? { files } : {}) };
    this.insert(message);
    this.chat.leaf = message.id;
    return message;
  }
}

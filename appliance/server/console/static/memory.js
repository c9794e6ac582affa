/** The tables of chats in memory, until the page is left, for where a browser keeps nothing. */

/** Return a table in memory, which holds copies as a database does. @returns {import("./store.js").Table} */
export function held() {
  const rows = new Map();
  const all = async () => [...rows.values()].map((row) => structuredClone(row));
  return { all, get: async (key) => structuredClone(rows.get(key)), of: async (chat) => (await all()).filter((row) => row.chat === chat),
    put: async (value) => rows.set(value.id, structuredClone(value)), remove: async (key) => rows.delete(key) };
}

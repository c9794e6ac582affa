/** An answer as the device stores it, for where its events are no longer kept. */

import { send } from "./api.js";

/** Show the answer as the device has it, whose events are no longer kept. @param {import("./message.js").MessageView} view @param {{usage: any}} count */
export async function whole(view, count) {
  const response = await (await send(`/v1/responses/${view.message.response}`)).json().catch(() => null);
  if (!["completed", "incomplete"].includes(response?.status)) return false;
  const parts = response.output.flatMap((/** @type {any} */ item) => item.type === "message" ? item.content : []);
  view.replace(parts.map((/** @type {any} */ part) => part.text).join(""));
  count.usage = response.usage;
  return true;
}

/** The upload of files in pieces: it goes on where the device's bytes end, after a pause and after a lost network. */

import { Failure, send } from "../api.js";
import { words } from "../words.js";

const PIECE = 4 << 20;
const RETRY_MS = 3000;

/**
 * @typedef {{name: string, size_bytes: number, received: number}} Part
 * @typedef {{id: string, name: string, state: string, files: Part[]}} Upload
 */

/**
 * Send what the device does not have yet; what it refuses is thrown, a lost network is waited for.
 * @param {string} base the route of uploads
 * @param {Upload} upload
 * @param {(name: string) => Blob|undefined} content
 * @param {AbortSignal} signal aborted by a pause
 * @param {(done: number, all: number, waits: boolean) => void} report
 */
export async function sendPieces(base, upload, content, signal, report) {
  const all = upload.files.reduce((sum, file) => sum + file.size_bytes, 0);
  const done = () => upload.files.reduce((sum, file) => sum + file.received, 0);
  for (const file of upload.files) {
    const bytes = content(file.name);
    if (!bytes || bytes.size !== file.size_bytes) throw new Failure(words.errorOther.replace("{message}", file.name));
    while (file.received < file.size_bytes) {
      report(done(), all, false);
      try {
        file.received = await sendPiece(`${base}/${upload.id}/files/${file.name}`, bytes, file.received, signal);
      } catch (error) {
        if (signal.aborted || !(error instanceof Failure)) throw error;
        if (error.status && error.code !== "offset_mismatch") throw error;
        report(done(), all, !error.status);
        await pause(RETRY_MS * (error.status ? 0 : 1), signal);
        await catchUp(base, upload, signal);
      }
    }
  }
  report(all, all, false);
}

/** @param {string} path @param {Blob} bytes @param {number} first @param {AbortSignal} signal @returns {Promise<number>} */
async function sendPiece(path, bytes, first, signal) {
  const piece = bytes.slice(first, first + PIECE);
  const range = `bytes ${first}-${first + piece.size - 1}/${bytes.size}`;
  const headers = { "content-type": "application/octet-stream", "content-range": range };
  const answer = await send(path, { method: "PUT", body: piece, headers, signal });
  return (await answer.json()).received;
}

/** Ask the device what it has; nothing is known while it cannot be reached. @param {string} base @param {Upload} upload @param {AbortSignal} signal */
async function catchUp(base, upload, signal) {
  try {
    const { files } = await (await send(`${base}/${upload.id}`, { signal })).json();
    for (const file of upload.files) file.received = files.find((/** @type {Part} */ one) => one.name === file.name).received;
  } catch (error) {
    if (signal.aborted || !(error instanceof Failure) || error.status) throw error;
  }
}

/** @param {number} ms @param {AbortSignal} signal @returns {Promise<void>} */
function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
  });
}

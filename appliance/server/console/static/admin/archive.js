/** A bundle as one file, an uncompressed ustar archive: its members by name, and none of it in memory. */

import { Failure } from "../api.js";
import { say } from "./say.js";

const BLOCK = 512;
const MOST = 80;
const SMALL = 1 << 20;

/**
 * Read the headers of an archive.
 * @param {File} file
 * @returns {Promise<Map<string, Blob>>}
 */
export async function readArchive(file) {
  const members = new Map();
  for (let offset = 0; offset < file.size;) {
    const header = new Uint8Array(await file.slice(offset, offset + BLOCK).arrayBuffer());
    if (offset && header.every((byte) => !byte)) break;
    const name = text(header, 0, 100).replace(/^\.\//, "");
    const size = /^[0-7]+$/.test(text(header, 124, 12).trim()) ? parseInt(text(header, 124, 12), 8) : NaN;
    const end = offset + BLOCK + size;
    if (header.length < BLOCK || text(header, 257, 5) !== "ustar" || !(end <= file.size) || members.size > MOST) {
      throw new Failure(say.notArchive);
    }
    if (header[156] === 0 || header[156] === 48) members.set(name, file.slice(offset + BLOCK, end));
    offset = end + (BLOCK - size % BLOCK) % BLOCK;
  }
  return members;
}

/**
 * Return a small member as text.
 * @param {Map<string, Blob>} members
 * @param {string} name
 */
export async function smallText(members, name) {
  const found = members.get(name);
  if (!found || found.size > SMALL) throw new Failure(say.notArchive);
  return found.text();
}

/** @param {Uint8Array} header @param {number} start @param {number} length */
function text(header, start, length) {
  const bytes = header.subarray(start, start + length);
  const end = bytes.indexOf(0);
  return new TextDecoder("latin1").decode(end < 0 ? bytes : bytes.subarray(0, end));
}

/** Text files that are attached to a message. */

import { fill, number, words } from "./words.js";

const MOST_BYTES = 1 << 20;

/**
 * Read files as text; those that are too large or hold something else are refused with the reason.
 * @param {File[]} files
 */
export async function readTexts(files) {
  const texts = [], refused = [];
  for (const file of files) {
    if (file.size > MOST_BYTES) {
      refused.push(fill(words.fileTooLarge, { name: file.name, most: number(MOST_BYTES / 1e6, 1) }));
      continue;
    }
    const text = await text8(file);
    if (text === null) refused.push(fill(words.fileNoText, { name: file.name }));
    else texts.push({ name: file.name, text });
  }
  return { texts, refused };
}

/** Return a file's text, or null if it is not UTF-8 text. @param {File} file */
async function text8(file) {
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    return text.includes("\0") ? null : text;
  } catch {
    return null;
  }
}

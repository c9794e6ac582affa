/** The words of administration in the reader's language, its style, and numbers as people read them. */

import { styled } from "../dom.js";
import { fill, language, number } from "../words.js";

/** @type {Record<string, string>} */
export const say = (await import(`./${language}.js`)).words;

await styled(new URL("style.css", import.meta.url));

const UNITS = ["B", "kB", "MB", "GB", "TB"];

/** Return a size with its unit. @param {number|null|undefined} bytes */
export function size(bytes) {
  if (bytes === null || bytes === undefined) return say.unknown;
  let value = bytes, unit = 0;
  while (value >= 1000 && unit < UNITS.length - 1) { value /= 1000; unit += 1; }
  return `${number(value, value < 10 && unit > 1 ? 1 : 0)} ${UNITS[unit]}`;
}

/** The reader's tag of that language, such as en-GB, which tells how dates are written. */
const tag = navigator.languages.find((one) => one.startsWith(language)) ?? language;

const CLOCK_S = 1767225600; // 2026: a board without a clock starts in 1970

/** Return a time of day with its date. @param {number|null} seconds since 1970 */
export function when(seconds) {
  if (seconds !== null && seconds < CLOCK_S) return say.noClock;
  return seconds === null ? say.never : new Intl.DateTimeFormat(tag, { dateStyle: "medium", timeStyle: "short" }).format(seconds * 1000);
}

/** Return a span of time in its two largest units. @param {number} seconds */
export function span(seconds) {
  const minutes = Math.floor(seconds / 60), hours = Math.floor(minutes / 60), days = Math.floor(hours / 24);
  if (days) return fill(say.days, { days: number(days), hours: number(hours % 24) });
  if (hours) return fill(say.hours, { hours: number(hours), minutes: number(minutes % 60) });
  return minutes ? fill(say.minutes, { minutes: number(minutes) }) : fill(say.seconds, { seconds: number(Math.floor(seconds)) });
}

/** The names, the certificate and the claim of the device, as it tells everybody. */

/**
 * @typedef {{id: string, name: string, alias: string|null, addresses: string[], url: string|null, https_port: number|null,
 *   certificate: {pin: string, fingerprint: string}|null, claim: "code"|"open"|"claimed"|"off",
 *   claimed_by: {name: string, claimed: number}|null}} Identity
 */

/** Ask the device who it is; null if nobody answers. @returns {Promise<Identity|null>} */
export async function identity() {
  try {
    const answer = await fetch("/identity", { cache: "no-store" });
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}

/** Return an address of the page over HTTPS at this host. @param {Identity} told @param {string} host */
export function secured(told, host) {
  const port = told.https_port === 443 || !told.https_port ? "" : `:${told.https_port}`;
  return `https://${host.includes(":") && !host.startsWith("[") ? `[${host}]` : host}${port}/`;
}

/** Return true in a browser on the device itself, which needs no encryption. */
export function isHere() {
  return ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
}

/**
 * Go to the page under the device's own name, if this browser has accepted its certificate before.
 * @param {Identity} told
 * @param {string} hash The end of the address, which goes along.
 */
export async function follow(told, hash) {
  if (!told.url || new URL(told.url).origin === location.origin) return false;
  try {
    await fetch(`${told.url}health`, { mode: "no-cors", cache: "no-store", signal: AbortSignal.timeout(4000) });
  } catch {
    return false;
  }
  location.replace(told.url + hash);
  return true;
}

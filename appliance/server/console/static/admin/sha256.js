/** SHA-256 of a file read piece by piece (FIPS 180-4): the browser's own takes it whole, and over plain HTTP there is none. */

const PIECE = 4 << 20;
const fraction = (/** @type {number} */ root) => Math.floor((root - Math.floor(root)) * 2 ** 32);
const PRIMES = primes(64);
const K = Uint32Array.from(PRIMES, (prime) => fraction(Math.cbrt(prime)));

/** @param {number} count */
function primes(count) {
  const found = /** @type {number[]} */ ([]);
  for (let n = 2; found.length < count; n += 1) if (found.every((prime) => n % prime)) found.push(n);
  return found;
}

/**
 * Return the hex of a file's SHA-256.
 * @param {Blob} file
 * @param {(done: number) => void} report
 * @param {AbortSignal} signal
 */
export async function sha256(file, report, signal) {
  const state = Uint32Array.from(PRIMES.slice(0, 8), (prime) => fraction(Math.sqrt(prime)));
  const words = new Uint32Array(64);
  for (let at = 0; at < file.size; at += PIECE) {
    const bytes = new Uint8Array(await file.slice(at, at + PIECE).arrayBuffer());
    if (bytes.length === PIECE) digest(state, words, bytes);
    else digest(state, words, padded(bytes, file.size));
    signal.throwIfAborted();
    report(Math.min(at + PIECE, file.size));
  }
  if (file.size % PIECE === 0) digest(state, words, padded(new Uint8Array(), file.size));
  return Array.from(state, (word) => word.toString(16).padStart(8, "0")).join("");
}

/** @param {Uint8Array} bytes the last ones @param {number} size of the whole file */
function padded(bytes, size) {
  const made = new Uint8Array(Math.ceil((bytes.length + 9) / 64) * 64);
  made.set(bytes);
  made[bytes.length] = 128;
  new DataView(made.buffer).setBigUint64(made.length - 8, BigInt(size) * 8n);
  return made;
}

/** @param {Uint32Array} state @param {Uint32Array} w @param {Uint8Array} bytes whole blocks */
function digest(state, w, bytes) {
  const view = new DataView(bytes.buffer);
  for (let block = 0; block < bytes.length; block += 64) {
    for (let i = 0; i < 16; i += 1) w[i] = view.getUint32(block + 4 * i);
    for (let i = 16; i < 64; i += 1) {
      const x = w[i - 15], y = w[i - 2];
      w[i] = w[i - 16] + w[i - 7] + ((x >>> 7 | x << 25) ^ (x >>> 18 | x << 14) ^ x >>> 3) + ((y >>> 17 | y << 15) ^ (y >>> 19 | y << 13) ^ y >>> 10);
    }
    let [a, b, c, d, e, f, g, h] = state;
    for (let i = 0; i < 64; i += 1) {
      const one = h + ((e >>> 6 | e << 26) ^ (e >>> 11 | e << 21) ^ (e >>> 25 | e << 7)) + (e & f ^ ~e & g) + K[i] + w[i] | 0;
      const two = ((a >>> 2 | a << 30) ^ (a >>> 13 | a << 19) ^ (a >>> 22 | a << 10)) + (a & b ^ a & c ^ b & c) | 0;
      h = g; g = f; f = e; e = d + one | 0; d = c; c = b; b = a; a = one + two | 0;
    }
    [a, b, c, d, e, f, g, h].forEach((word, i) => { state[i] += word; });
  }
}

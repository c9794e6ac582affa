/** Colours of code: ranges of the text get a name that the style sheet knows, and no element is made. */

const LONGEST = 100000;
const NUMBER = /\b0[xXbBoO][\da-fA-F_]+\b|\b\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?/;
const QUOTED = /"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?/;
const SLASHES = /\/\/.*|\/\*[^]*?(?:\*\/|$)/;
const HASH = /(?<![\w$])#.*/;
const WORD = /[A-Za-z_$][\w$]*/;

/** @param {string} words */
const set = (words) => new Set(words.split(" "));
const FLOW = "if else for while do switch case default break continue return try catch finally throw new this super class extends import true false null";

/** @type {Record<string, {comment?: RegExp, text?: RegExp, words: Set<string>, anyCase?: boolean}>} */
const KINDS = {
  python: { comment: HASH, text: /(?:\b[rRbBfFuU]{1,2})?(?:"""[^]*?(?:"""|$)|'''[^]*?(?:'''|$))|(?:\b[rRbBfFuU]{1,2})?(?:"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?)/,
    words: set("and as assert async await break class continue def del elif else except finally for from global if import in is lambda nonlocal not or pass raise return try while with yield match case None True False self") },
  javascript: { comment: SLASHES, text: /"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?|`(?:\\.|[^`\\])*`?/,
    words: set(`${FLOW} async await const let var function of in instanceof typeof void delete yield static get set export from as undefined interface type enum implements readonly private public protected namespace declare`) },
  c: { comment: SLASHES, text: QUOTED,
    words: set(`${FLOW} int char float double long short unsigned signed void bool struct union enum typedef const static extern sizeof auto goto inline template typename namespace using public private protected virtual override final constexpr nullptr delete operator package interface implements abstract instanceof throws boolean byte String var func go defer chan map range select type fn let mut pub impl trait match mod use crate self Self ref move dyn where async await loop in as nil string int32 int64 uint8 u8 u32 u64 i32 i64 f32 f64 usize`) },
  sh: { comment: HASH, text: /"(?:\\[^]|[^"\\])*"?|'[^']*'?/,
    words: set("if then else elif fi for in do done while until case esac function return export local readonly set unset shift exit source alias cd echo sudo") },
  json: { text: QUOTED, words: set("true false null") },
  sql: { comment: /--.*|\/\*[^]*?(?:\*\/|$)/, text: /'(?:''|[^'])*'?|"[^"\n]*"?/, anyCase: true,
    words: set("select from where and or not null insert into values update set delete create table view index drop alter add primary key foreign references join left right inner outer full on group by order having limit offset as distinct union all exists in between like is case when then else end with desc asc count sum avg min max integer text real") },
  css: { comment: /\/\*[^]*?(?:\*\/|$)/, text: QUOTED, words: set("important media supports import root hover focus before after not inherit initial none auto flex grid block inline") },
  yaml: { comment: HASH, text: QUOTED, words: set("true false null yes no on off") },
  xml: { comment: /<!--[^]*?(?:-->|$)/, text: QUOTED, words: set("") },
};

/** @type {Record<string, string>} */
const NAMES = { py: "python", python3: "python", js: "javascript", jsx: "javascript", mjs: "javascript", ts: "javascript", tsx: "javascript", typescript: "javascript", "c++": "c", cpp: "c", h: "c",
  hpp: "c", java: "c", "c#": "c", cs: "c", csharp: "c", go: "c", golang: "c", rust: "c", rs: "c", kotlin: "c", swift: "c", php: "c", bash: "sh", shell: "sh", zsh: "sh", console: "sh", sqlite: "sql",
  mysql: "sql", postgresql: "sql", jsonc: "json", json5: "json", scss: "css", yml: "yaml", toml: "yaml", ini: "yaml", html: "xml", svg: "xml" };

/** The ranges of each text on the screen. @type {Map<Text, [string, StaticRange][]>} */
const coloured = new Map();

/**
 * Return the tokens of a text that have a colour: kind, start, end. A language that is not known has none.
 * @param {string} language @param {string} text
 * @returns {[string, number, number][]}
 */
export function tokens(language, text) {
  const name = language.toLowerCase();
  const kind = KINDS[NAMES[name] ?? name];
  if (!kind || text.length > LONGEST) return [];
  const never = /(?!)/;
  const parts = [kind.comment ?? never, kind.text ?? never, NUMBER, WORD].map(({ source }) => `(${source})`);
  const found = /** @type {[string, number, number][]} */ ([]);
  for (const match of text.matchAll(new RegExp(parts.join("|"), "g"))) {
    const [whole, comment, quoted, digits, word] = match;
    const isWord = word && kind.words.has(kind.anyCase ? word.toLowerCase() : word);
    const token = comment ? "comment" : quoted ? "string" : digits ? "number" : isWord ? "keyword" : "";
    if (token) found.push([token, match.index, match.index + whole.length]);
  }
  return found;
}

/** Colour the code of a text node. @param {string} language @param {Text} node */
export function colour(language, node) {
  if (!("highlights" in CSS)) return;
  for (const other of coloured.keys()) if (!other.isConnected && other !== node) fade(other);
  fade(node);
  const ranges = tokens(language, node.data).map(([token, start, end]) => {
    const range = new StaticRange({ startContainer: node, startOffset: start, endContainer: node, endOffset: end });
    highlight(token).add(range);
    return /** @type {[string, StaticRange]} */ ([token, range]);
  });
  coloured.set(node, ranges);
}

/** @param {Text} node */
function fade(node) {
  for (const [token, range] of coloured.get(node) ?? []) highlight(token).delete(range);
  coloured.delete(node);
}

/** @param {string} token */
function highlight(token) {
  const name = `code-${token}`;
  const known = CSS.highlights.get(name);
  if (known) return known;
  const made = new Highlight();
  CSS.highlights.set(name, made);
  return made;
}

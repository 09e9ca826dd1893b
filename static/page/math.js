/**
 * Mathematics as TeX writes it, which is not drawn but shown as it was written: `\(..\)`, `\[..\]`,
 * `$$..$$`, `$..$` and `\begin{..}..\end{..}`. Code goes first; `$5 and $10` is no
 * mathematics. This module knows nothing of the parser or of elements: text in, places out.
 */

/** So much may stand between two marks: what is longer is text (characters). */
const LONGEST = 32_768;
/** Two dollars far apart, with paragraphs between them, do not belong together. */
const LONGEST_DOLLARS = 4000;
const CLOSERS = { "\\(": "\\)", "\\[": "\\]", $$: "$$" };
/** What stands before the other end where these signs are no mathematics. */
const PLAIN = { "\\(": ")", "\\[": "]" };
const SIGNS = /`+|\\begin\{[^{}\s]{1,32}\}|\\[\s\S]|\$+/g;
const OPENING_LINE = /^ {0,3}(\$\$|\\\[|\\begin\{[^{}\s]{1,32}\})/;
const LATER_LINE = /\n {0,3}(?:\$\$|\\\[|\\begin\{[^{}\s]{1,32}\})/g;
const ENVIRONMENT = /\\(begin|end)\{([^{}\s]{1,32})\}/g;
const TEX = /\\[a-zA-Z,;:!{}|]|\^|_\{/g;
/** A letter or digit that a dollar may not touch: those of scripts without spaces may. */
const IN_WORD =
  "(?![\\p{Script=Han}\\p{Script=Hiragana}\\p{Script=Katakana}\\p{Script=Hangul}" +
  "\\p{Script=Bopomofo}\\u3000-\\u303f\\u30fc])[\\p{L}\\p{N}]";
const WORD = new RegExp(IN_WORD, "u");
const TO_DOLLAR = new RegExp(
  `^(?!\\s)(?:\\\\[\\s\\S]|[^\\\\$\`])*?(?<![\\s\\\\])\\$(?!\\$|${IN_WORD})`,
  "u",
);

/**
 * Find mathematics within a paragraph.
 *
 * What is begun and not ended counts where it looks like TeX: an answer may be cut there.
 *
 * @param {boolean} isOpen more text may come: what is begun counts, whatever it looks like
 * @returns {{start: number, end: number}[]} in their order
 */
export function mathIn(text, isOpen) {
  const found = [];
  if (!/\$|\\[([\]b]/.test(text)) return found;
  const codes = new CodeSpans(text);
  const places = new Places(text);
  for (const { index, 0: sign } of text.matchAll(SIGNS)) {
    const from = Math.max(found.at(-1)?.end ?? 0, codes.end);
    if (index < from) continue;
    if (sign[0] === "`") codes.enter(index, sign.length);
    else if (sign === "\\]") {
      // It ends what began in another paragraph.
      if (places.next("[", from) > index) found.push({ start: from, end: index + 2 });
    } else {
      const end = sign === "$" ? endOfDollar(places, index) : endOf(places, index, sign, isOpen);
      if (end) found.push({ start: index, end });
    }
  }
  return found;
}

function endOf(places, at, sign, isOpen) {
  const from = at + sign.length;
  const closing = places.closing(sign, at);
  if (!closing) return 0;
  const limit = Math.min(places.next("`", from), from + LONGEST);
  if (closing.start <= limit) return closing.start > from ? closing.end : 0;
  if (limit <= places.size) return 0;
  return isOpen || places.isTex(from) || places.isWithout(PLAIN[sign], from) ? places.size : 0;
}

/** Pandoc's rule, and no word on either side. */
function endOfDollar(places, at) {
  const { text } = places;
  if (at && WORD.test(text[at - 1])) return 0;
  const found = TO_DOLLAR.exec(text.slice(at + 1, at + 1 + LONGEST))?.[0];
  if (!found) return isCutDollar(places, at + 1) ? places.size : 0;
  if (found.includes("](") || found.includes("\n\n")) return 0;
  return at + 1 + found.length;
}

function isCutDollar(places, from) {
  if (/^(?:[\s\d]|$)/.test(places.text.slice(from, from + 1))) return false;
  const isLast = places.next("$", from) === Infinity && places.next("`", from) === Infinity;
  return isLast && places.isTex(from);
}

/** The mathematics of a text that stands on lines of its own. */
export class MathBlocks {
  #text;
  #isOpen;
  #places;

  /** @param {boolean} isOpen as for `mathIn` */
  constructor(text, isOpen) {
    this.#text = text;
    this.#isOpen = isOpen;
    this.#places = new Places(text);
  }

  /** Where what follows it begins, or 0 where none begins at `at`. */
  endAt(at) {
    const opening = OPENING_LINE.exec(this.#text.slice(at, at + 50));
    if (!opening) return 0;
    const from = at + opening[0].length;
    const sign = opening[1];
    const { start, end } = this.#places.closing(sign, from - sign.length);
    if (start > from + LONGEST) return this.#isCut(sign, from) ? this.#places.size : 0;
    if (!this.#text.slice(from, start).trim()) return 0;
    const isFar = sign === "$$" && start > from + LONGEST_DOLLARS;
    if (isFar && this.#places.next("\n\n", from) < start) return 0;
    const rest = /^[ \t.,;:]*(?:\n|$)/.exec(this.#text.slice(end, end + 38));
    return rest ? Math.min(end + rest[0].length, this.#places.size) : 0;
  }

  #isCut(sign, from) {
    const places = this.#places;
    const size = places.size - from;
    if (this.#isOpen && size < (sign === "$$" ? LONGEST_DOLLARS : LONGEST)) return true;
    return size < LONGEST && places.next("\n\n", from) >= places.bareSize && places.isTex(from);
  }
}

/** Where the next line begins that could open mathematics, after the first; or -1. */
export function nextMathLine(text) {
  LATER_LINE.lastIndex = 0;
  const found = LATER_LINE.exec(text);
  return found ? found.index + 1 : -1;
}

/** Where something is found next, asked from left to right: every place is looked at once. */
class Places {
  text;
  size;
  #found = new Map();
  #environments;
  #lastTex;
  #bareSize;

  constructor(text) {
    this.text = text;
    this.size = text.length;
  }

  /** Without the white space at the end. */
  get bareSize() {
    return (this.#bareSize ??= this.text.trimEnd().length);
  }

  /** Infinity where it is not found. */
  next(what, from) {
    const known = this.#found.get(what);
    if (known >= from) return known;
    const at = this.text.indexOf(what, from);
    const found = at < 0 ? Infinity : at;
    this.#found.set(what, found);
    return found;
  }

  /** The mark that closes the one at `at`; null where `sign` opens nothing. */
  closing(sign, at) {
    if (sign.length > 2 && sign[0] === "\\") return this.#environment(at);
    const closer = CLOSERS[sign];
    if (!closer) return null;
    const start = this.next(closer, at + sign.length);
    return { start, end: start + closer.length };
  }

  #environment(at) {
    this.#environments ??= environments(this.text);
    return this.#environments.get(at) ?? { start: Infinity, end: Infinity };
  }

  /** Whether something behind `from` is said as TeX says it. */
  isTex(from) {
    if (this.#lastTex === undefined) {
      this.#lastTex = -1;
      for (const { index } of this.text.matchAll(TEX)) this.#lastTex = index;
    }
    return this.#lastTex >= from;
  }

  isWithout(what, from) {
    return what !== undefined && this.next(what, from) === Infinity;
  }
}

/** Where each environment ends, by where it begins. */
function environments(text) {
  const found = new Map();
  const open = new Map();
  for (const { index, 0: mark, 1: kind, 2: name } of text.matchAll(ENVIRONMENT)) {
    if (!open.has(name)) open.set(name, []);
    if (kind === "begin") open.get(name).push(index);
    else found.set(open.get(name).pop(), { start: index, end: index + mark.length });
  }
  return found;
}

/** The code spans of a text, entered from left to right. */
class CodeSpans {
  /** Where the last one ends. */
  end = 0;
  #text;
  /** Lengths of runs that no later run has. */
  #single = new Set();

  constructor(text) {
    this.#text = text;
  }

  enter(at, size) {
    this.end = at + size;
    if (this.#single.has(size)) return;
    const closing = new RegExp(`(?<!\`)\`{${size}}(?!\`)`, "g");
    closing.lastIndex = this.end;
    if (closing.test(this.#text)) this.end = closing.lastIndex;
    else this.#single.add(size);
  }
}

/**
 * Mathematics as TeX writes it, which is not drawn but shown as it was written: `\(..\)`, `\[..\]`,
 * `$$..$$` and `$..$`. Code goes first; `$5 and $10` is no mathematics. This module knows nothing
 * of the parser or of elements: text in, places out.
 */

/** So much may stand between two marks: what is longer is text (characters). */
const LONGEST = 4000;
const CLOSERS = { "\\(": "\\)", "\\[": "\\]", $$: "$$" };
const OPENING_LINE = /^ {0,3}(\$\$|\\\[)/;
const LATER_LINE = /\n {0,3}(?:\$\$|\\\[)/g;
const WORD = /[\p{L}\p{N}]/u;

/**
 * Find mathematics within a paragraph.
 *
 * @param {boolean} isOpen more text may come: what is begun and not ended counts
 * @returns {{start: number, end: number}[]} in their order
 */
export function mathIn(text, isOpen) {
  const found = [];
  if (!/\$|\\[([]/.test(text)) return found;
  const codes = new CodeSpans(text);
  const places = new Places(text);
  for (const { index, 0: sign } of text.matchAll(/`+|\\[\s\S]|\$+/g)) {
    if (index < (found.at(-1)?.end ?? 0) || index < codes.end) continue;
    if (sign[0] === "`") codes.enter(index, sign.length);
    else {
      const end = sign === "$" ? endOfDollar(text, index) : endOf(places, index, sign, isOpen);
      if (end) found.push({ start: index, end });
    }
  }
  return found;
}

function endOf(places, at, sign, isOpen) {
  const closer = CLOSERS[sign];
  if (!closer) return 0;
  const from = at + sign.length;
  const end = places.next(closer, from);
  const limit = Math.min(places.next("`", from), from + LONGEST);
  if (end <= limit) return end > from ? end + closer.length : 0;
  return isOpen && limit > places.size ? places.size : 0;
}

/** Pandoc's rule, and no word on either side. */
function endOfDollar(text, at) {
  if (at && WORD.test(text[at - 1])) return 0;
  const inner = text.slice(at + 1, at + 1 + LONGEST);
  const found = /^(?!\s)(?:\\[\s\S]|[^\\$`])*?(?<![\s\\])\$(?![\p{L}\p{N}$])/u.exec(inner)?.[0];
  if (!found || found.includes("](") || found.includes("\n\n")) return 0;
  return at + 1 + found.length;
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
    const opening = OPENING_LINE.exec(this.#text.slice(at, at + 6));
    if (!opening) return 0;
    const from = at + opening[0].length;
    const end = this.#places.next(CLOSERS[opening[1]], from);
    const isOpen = this.#isOpen && this.#places.size - from < LONGEST;
    if (end > from + LONGEST) return isOpen ? this.#places.size : 0;
    if (!this.#text.slice(from, end).trim()) return 0;
    const rest = /^[ \t.,;:]*(?:\n|$)/.exec(this.#text.slice(end + 2, end + 40));
    return rest ? Math.min(end + 2 + rest[0].length, this.#places.size) : 0;
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
  size;
  #text;
  #found = new Map();

  constructor(text) {
    this.#text = text;
    this.size = text.length;
  }

  /** Infinity where it is not found. */
  next(what, from) {
    const known = this.#found.get(what);
    if (known >= from) return known;
    const at = this.#text.indexOf(what, from);
    const found = at < 0 ? Infinity : at;
    this.#found.set(what, found);
    return found;
  }
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

/**
 * Blocks of code that stand between fences. This module knows nothing of the parser or of elements:
 * text in, places out.
 */

const LINES = /^( {0,3})(`{3,}|~{3,})(.*)$/gm;
/** A fence whose block may hold fences. */
export const NESTING = /^ {0,3}(?:```|~~~)[ \t]*(?:markdown|md|mdx)\b/i;
/** So many fences further on the end of a block that holds fences is looked for. */
const NESTED = 40;

/** The fences of a text, found in one pass. */
export class Fences {
  #text;
  #isOpen;
  #lines = [];
  #places = new Map();

  /** @param {boolean} isOpen more text may come */
  constructor(text, isOpen) {
    this.#text = text;
    this.#isOpen = isOpen;
    if (!text.includes("```") && !text.includes("~~~")) return;
    for (const { index: at, 0: line, 1: indent, 2: mark, 3: rest } of text.matchAll(LINES)) {
      this.#places.set(at, this.#lines.length);
      const end = Math.min(at + line.length + 1, text.length);
      const nests = NESTING.test(line);
      this.#lines.push({ at, end, indent: indent.length, mark, info: rest.trim(), nests });
    }
  }

  /**
   * The block of code that begins at a line.
   *
   * Models put markdown that holds fences of its own between fences that are no longer than
   * those: such a block goes on to its own end, if it has one.
   *
   * @returns {{text: string, info: string, end: number} | null} `end` is where what follows begins
   */
  blockAt(at) {
    const place = this.#places.get(at);
    const fence = this.#lines[place];
    if (!fence || (fence.mark[0] === "`" && fence.info.includes("`"))) return null;
    const { inner, end } = this.#endOf(fence, place + 1);
    const text = this.#text.slice(fence.end, Math.max(inner, fence.end));
    return { text: unindented(text, fence.indent), info: fence.info, end };
  }

  #endOf(fence, from) {
    const { nests } = fence;
    let plain = null;
    let last = Infinity;
    let depth = 1;
    for (let place = from; place < this.#lines.length; place++) {
      const { at, end, mark, info } = this.#lines[place];
      if (place > last) return plain;
      if (mark[0] !== fence.mark[0] || mark.length < fence.mark.length) continue;
      if (info) {
        if (nests && !info.includes("`")) depth++;
        continue;
      }
      depth--;
      if (!nests || !depth) return { inner: at, end };
      plain ??= { inner: at, end };
      last = Math.min(last, place + NESTED);
    }
    if (plain && !this.#isOpen) return plain;
    return { inner: this.#text.length, end: this.#text.length };
  }
}

function unindented(text, indent) {
  return indent ? text.replace(new RegExp(`^ {1,${indent}}`, "gm"), "") : text;
}

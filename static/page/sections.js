/**
 * Text cut into sections that can be parsed one by one, as if they were parsed together: in one
 * pass over its lines, so that no text is too long for it. This module knows nothing of elements or
 * of what a section is parsed to.
 */

import { Fences } from "./fences.js";
import { MathBlocks } from "./math.js";

/** What is longer is not parsed (characters). */
export const LONGEST = 32_768;
/** What stands behind so many sections is not parsed either. */
const MOST = 5000;
/** Where a list has grown so long, it goes on as another one (characters). */
const LONG_LIST = 4096;
const MARKER = /^( {0,3})([*+-]|\d{1,9}[.)])(?:( {1,4})|\t|$)/;
const INDENT = /^[ \t]*/;

/**
 * @typedef {object} Section
 * @property {string} raw
 * @property {{text: string, info: string}} [code] where it is fenced
 * @property {boolean} [isRest] the rest of a section that is too long, or of too many
 */

/**
 * Cut it.
 *
 * @param {boolean} isOpen more text may come: only the last two sections may then change
 * @param {number} before how many sections stand before `text`
 * @returns {Section[]}
 */
export function sections(text, isOpen, before) {
  const cutter = new Cutter(text, isOpen, MOST - before);
  while (cutter.at < text.length) cutter.step();
  cutter.cut(text.length);
  return cutter.found;
}

class Cutter {
  at = 0;
  found = [];
  #text;
  #most;
  #fences;
  #math;
  #start = 0;
  #afterBlank = false;
  #hasText = false;
  #isRest = false;
  /** How far the text of the list's item is indented, in a list. */
  #list = 0;

  constructor(text, isOpen, most) {
    this.#text = text;
    this.#most = most;
    this.#isRest = most <= 0;
    this.#fences = new Fences(text, isOpen);
    this.#math = new MathBlocks(text, isOpen);
  }

  /** End the section that was begun. */
  cut(end, code) {
    const raw = this.#text.slice(this.#start, end);
    if (raw) this.found.push({ raw, code, isRest: this.#isRest });
    this.#start = end;
    this.#hasText = this.#afterBlank = false;
    this.#isRest = this.found.length >= this.#most;
    this.#list = 0;
  }

  /** Take in a line, or the block that begins with it. */
  step() {
    const found = this.#text.indexOf("\n", this.at);
    const end = found < 0 ? this.#text.length : found;
    const line = this.#text.slice(this.at, end);
    const indent = INDENT.exec(line)[0].length;
    if (indent === line.length) this.#afterBlank = this.#hasText;
    else if (this.found.length < this.#most && this.#take(line, indent)) return;
    this.at = end + 1;
    if (this.at - this.#start > LONGEST) this.#cutLong();
  }

  /** Say whether it was a whole block. */
  #take(line, indent) {
    const marker = "*+-0123456789".includes(line[indent]) && MARKER.exec(line);
    if (this.#isNew(indent, marker)) this.cut(this.at);
    if (!this.#list || indent < this.#list) {
      if (this.#block(line[indent])) return true;
      if (marker) this.#list = marker[0].length + (marker[3] ? 0 : 1);
    }
    this.#hasText = true;
    this.#afterBlank = false;
    return false;
  }

  /** Whether a line has nothing to do with what stands before it. */
  #isNew(indent, marker) {
    if (indent || !this.#hasText) return false;
    if (!this.#list || !marker) return this.#afterBlank;
    return this.at - this.#start > LONG_LIST;
  }

  #block(first) {
    const code = "`~".includes(first) && this.#fences.blockAt(this.at);
    const end = code ? code.end : "$\\".includes(first) && this.#math.endAt(this.at);
    if (!end || (!code && this.#list && !this.#afterBlank)) return false;
    this.cut(this.at);
    this.at = end;
    this.cut(end, code || undefined);
    return true;
  }

  /** What goes on behind it belongs to it, and is not parsed either. */
  #cutLong() {
    const end = Math.min(this.at, this.#text.length);
    this.found.push({ raw: this.#text.slice(this.#start, end), isRest: this.#isRest });
    this.#start = end;
    this.#isRest = true;
  }
}

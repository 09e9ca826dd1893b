/**
 * marked, with what the page needs beside it: emphasis and mathematics as emphasis.js and math.js
 * say, fences within fences, and a bound on the work that one text may cost. This module knows
 * nothing of elements, and makes no HTML.
 */

import { pairs } from "./emphasis.js";
import { Fences, NESTING } from "./fences.js";
import { MathBlocks, mathIn, nextMathLine } from "./math.js";
import { cellsOf } from "./table-row.js";
import { Lexer, Tokenizer } from "../vendor/marked.esm.js";

/** Lists and quotes within one another. */
const DEEPEST = 24;
/** Emphasis and links within one another. */
const DEEPEST_INLINE = 40;
/** So many characters may be looked at, again and again: some ms of work. */
const WORK = 3_000_000;

/** What it costs to look at one place. */
const STEP = 400;

export class OurTokenizer extends Tokenizer {
  /** Markup is no token of ours, so it stays text, and markdown works inside it. */
  html() {}

  tag() {}

  fences(src) {
    const found = super.fences(src);
    if (!found) return found;
    // marked takes backslashes out of it.
    found.lang = /^ *(?:`+|~+)(.*)/.exec(src)[1].trim();
    if (!NESTING.test(src)) return found;
    this.lexer.work(src.length);
    const nested = new Fences(src, false).blockAt(0);
    if (!nested || nested.end <= found.raw.length) return found;
    return { ...found, raw: src.slice(0, nested.end), text: nested.text };
  }

  /** Cells that the header has no column for are shown too. */
  table(src) {
    const found = super.table(src);
    if (!found) return found;
    const lines = found.raw.split("\n").slice(2);
    found.rows.forEach((row, at) => {
      const texts = cellsOf(lines[at], row.length);
      if (texts.length <= row.length && texts.every((text, cell) => text === row[cell].text)) return;
      found.rows[at] = texts.map((text, cell) => ({
        ...{ text, tokens: this.lexer.inline(text), header: false },
        align: found.align[cell] ?? null,
      }));
    });
    return found;
  }

  /** A line of mathematics may look as if it made a heading of those above it. */
  lheading(src) {
    const found = super.lheading(src);
    const math = found ? nextMathLine(found.raw) : -1;
    return math < 0 ? found : super.lheading(src.slice(0, math));
  }

  emStrong(src, masked) {
    if (src[0] !== "*" && src[0] !== "_") return undefined;
    const found = this.lexer.emphasis(src, masked);
    return found && { ...found, type: found.size === 2 ? "strong" : "em" };
  }

  del(src, masked) {
    if (!src.startsWith("~~")) return undefined;
    const found = this.lexer.emphasis(src, masked);
    return found && { ...found, type: "del" };
  }

  link(src) {
    if (src[0] === "[" || src[0] === "!") this.lexer.work(src.length);
    return super.link(src);
  }

  codespan(src) {
    if (src[0] === "`") this.lexer.work(src.length / 4);
    return super.codespan(src);
  }

  /** Punctuation at an address' end is taken off sign by sign. */
  url(src) {
    const found = super.url(src);
    if (found) {
      const size = /^[^\s<]*/.exec(src)[0].length;
      this.lexer.work(size * (size - found.raw.length));
    }
    return found;
  }
}

/** One lexer reads one text, once. */
export class OurLexer extends Lexer {
  #isOpen;
  #left = WORK;
  #blocks = 0;
  /** The texts that are read, each within the one before it. */
  #frames = [];
  #next = null;

  /**
   * @param {object} options those of marked
   * @param {object} links reference links by their names, found before
   * @param {boolean} isOpen more text may come
   */
  constructor(options, links, isOpen) {
    super(options);
    this.tokens.links = links;
    this.#isOpen = isOpen;
  }

  /** Count work; throws a RangeError where it is too much. */
  work(amount) {
    this.#left -= amount;
    if (this.#left < 0) throw new RangeError("too dear to be parsed");
  }

  blockTokens(src, ...others) {
    this.work(8 * src.length);
    if (this.#blocks >= DEEPEST) throw new RangeError("too deep to be parsed");
    this.#blocks++;
    const tokens = super.blockTokens(src, ...others);
    this.#blocks--;
    return tokens;
  }

  inlineTokens(src, tokens = []) {
    this.work(src.length);
    if (this.#frames.length >= DEEPEST_INLINE) throw new RangeError("too deep to be parsed");
    const frame = { size: src.length, math: mathIn(src, this.#isOpen), at: 0, ...this.#next };
    this.#next = null;
    this.#frames.push(frame);
    super.inlineTokens(src, tokens);
    this.#frames.pop();
    return tokens;
  }

  /** The emphasis that `src`, the rest of what is read, begins with. */
  emphasis(src, masked) {
    const frame = this.#frames.at(-1);
    const at = frame.size - src.length;
    frame.base ??= 0;
    frame.pairs ??= pairs(masked, (index) => isWithin(frame.math, index));
    const found = frame.pairs.get(frame.base + at);
    if (!found) return undefined;
    const { end, size } = found;
    const raw = src.slice(0, end - frame.base - at + size);
    const text = raw.slice(size, -size);
    this.#next = { pairs: frame.pairs, base: frame.base + at + size };
    return { raw, text, size, tokens: this.inlineTokens(text) };
  }

  /** The mathematics that the rest of what is read begins with, or `ahead` of it. */
  math(rest, ahead) {
    const frame = this.#frames.at(-1);
    if (!frame) return undefined;
    const at = frame.size - rest;
    while (frame.math[frame.at]?.start < at) frame.at++;
    const next = frame.math[frame.at];
    return next && (ahead || next.start === at) ? { ...next, at } : undefined;
  }

  /** Where mathematics on lines of its own ends that `src` begins with; else 0. */
  blockMath(src) {
    return new MathBlocks(src, this.#isOpen).endAt(0);
  }
}

function isWithin(ranges, at) {
  let low = 0;
  let high = ranges.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ranges[middle].end <= at) low = middle + 1;
    else high = middle;
  }
  return low < ranges.length && ranges[low].start <= at;
}

/** Extensions of marked, without their renderers. */
export const inlineMath = {
  name: "math",
  level: "inline",
  start(src) {
    const found = this.lexer.math(src.length, true);
    return found && found.start - found.at;
  },
  /** Asked first at every place. */
  tokenizer(src) {
    this.lexer.work(STEP);
    const found = this.lexer.math(src.length, false);
    return found && { type: "math", raw: src.slice(0, found.end - found.start) };
  },
};

export const blockMath = {
  name: "mathBlock",
  level: "block",
  start: (src) => {
    const found = nextMathLine(src);
    return found < 0 ? undefined : found;
  },
  /** Asked first at every place. */
  tokenizer(src) {
    this.lexer.work(STEP + src.length);
    const size = this.lexer.blockMath(src);
    return size ? { type: "mathBlock", raw: src.slice(0, size) } : undefined;
  },
};

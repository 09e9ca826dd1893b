/**
 * Which asterisks, underscores and tildes of a text are emphasis: CommonMark's rule, in one pass.
 *
 * It differs in two places, for the sake of what models write. Beside Chinese, Japanese and Korean
 * characters, which have no spaces, punctuation does not keep a mark from opening or closing; and
 * only two tildes strike out, since one is a range (3~5).
 *
 * This module knows nothing of the parser or of elements: text in, places out.
 */

const SPACE = /^\s$/u;
const PUNCTUATION = /^[\p{P}\p{S}]$/u;
const ASCII = /^[\0-\x7f]$/;
const EAST_ASIAN = new RegExp(
  "^[\\p{Script=Han}\\p{Script=Hiragana}\\p{Script=Katakana}\\p{Script=Hangul}" +
    "\\p{Script=Bopomofo}\\u3000-\\u303f\\u30fb\\u30fc\\ufe10-\\ufe1f\\ufe30-\\ufe4f\\uff00-\\uffef]$",
  "u",
);
const RUNS = /\*+|_+|~+/g;

/**
 * Pair the marks of a text.
 *
 * @param {string} text in which code, links and escapes are masked
 * @param {(at: number) => boolean} isLeftAlone whether a place is none for emphasis
 * @returns {Map<number, {end: number, size: number}>} by where it opens: where the closing mark
 *   begins, and the length of either mark
 */
export function pairs(text, isLeftAlone = () => false) {
  const found = new Map();
  /** What may still be closed, the innermost last; and below which no opener is, by kind. */
  const open = [];
  const bottoms = new Map();
  for (const { index, 0: run } of text.matchAll(RUNS)) {
    if (isLeftAlone(index) || (run[0] === "~" && run.length !== 2)) continue;
    const mark = described(text, index, run);
    if (mark.closes) close(mark, open, bottoms, found);
    if (mark.opens && mark.left) open.push(mark);
  }
  return found;
}

function close(mark, open, bottoms, found) {
  const kind = `${mark.sign}${mark.opens}${mark.size % 3}`;
  while (mark.left) {
    const bottom = bottoms.get(kind) ?? 0;
    let at = open.length - 1;
    while (at >= bottom && !fits(open[at], mark)) at--;
    if (at < bottom) {
      bottoms.set(kind, open.length);
      return;
    }
    const opener = open[at];
    const size = mark.sign === "~" || (opener.left > 1 && mark.left > 1) ? 2 : 1;
    opener.left -= size;
    found.set(opener.at + opener.left, { end: mark.at, size });
    mark.at += size;
    mark.left -= size;
    open.length = opener.left ? at + 1 : at;
    for (const [key, value] of bottoms) if (value > open.length) bottoms.set(key, open.length);
  }
}

/** Where one of two could both open and close, their lengths must not add up to three. */
function fits(opener, closer) {
  if (opener.sign !== closer.sign) return false;
  if (!opener.closes && !closer.opens) return true;
  if ((opener.size + closer.size) % 3) return true;
  return opener.size % 3 === 0 && closer.size % 3 === 0;
}

function described(text, at, run) {
  const sign = run[0];
  const size = run.length;
  const relaxed = sign !== "_";
  const before = kindOf(charBefore(text, at), () => charBefore(text, at - 1), relaxed);
  const after = kindOf(charAt(text, at + size), () => charAt(text, at + size + 1), relaxed);
  const left = flanks(after, before);
  const right = flanks(before, after);
  const opens = left && (relaxed || !right || before.isPunctuation);
  const closes = right && (relaxed || !left || after.isPunctuation);
  return { sign, at, size, left: size, opens, closes };
}

/** Whether a mark belongs to what is at its `inner` side. */
function flanks(inner, outer) {
  if (inner.isSpace) return false;
  if (!inner.isPunctuation || inner.isEastAsian) return true;
  return outer.isSpace || outer.isPunctuation || outer.isEastAsian;
}

/** `beyond`: what stands behind; “ and ” belong to the script that they are written in. */
function kindOf(character, beyond, relaxed) {
  const isSpace = character === "" || SPACE.test(character);
  const isPunctuation = !isSpace && PUNCTUATION.test(character);
  const isEastAsian = relaxed && !isSpace && isIn(character, isPunctuation, beyond);
  return { isSpace, isPunctuation, isEastAsian };
}

function isIn(character, isPunctuation, beyond) {
  if (EAST_ASIAN.test(character)) return true;
  return isPunctuation && !ASCII.test(character) && EAST_ASIAN.test(beyond());
}

function charAt(text, at) {
  return at < text.length ? String.fromCodePoint(text.codePointAt(at)) : "";
}

function charBefore(text, at) {
  if (at < 1) return "";
  const isLow = /[\udc00-\udfff]/.test(text[at - 1]);
  return isLow && at > 1 ? charAt(text, at - 2) : text[at - 1];
}

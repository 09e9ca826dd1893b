/** Text of which nothing can be seen. This module knows nothing of turns or of elements. */

const BLANK = new RegExp(
  "^(?:[\\s\\p{Cc}\\p{Cf}\\u034f\\u115f\\u1160\\u17b4\\u17b5\\u2800\\u3164\\uffa0\\ufe00-\\ufe0f]|" +
    "&(?:nbsp|[Tt]ab|NewLine|ensp|emsp|thinsp|hairsp|zwj|zwnj|lrm|rlm|shy|ZeroWidthSpace|" +
    "#0*(?:9|10|13|32|160|173|820[2-7])|#[xX]0*(?:9|[aAdD]|20|[aA][0dD]|200[a-fA-F]));)*$",
  "u",
);

/** Say whether a model's text shows nothing: white space, or nothing at all. */
export function isBlank(text) {
  return BLANK.test(text);
}

/**
 * Markdown of a model, which nobody has checked, as DOM that can do no harm:
 * markdown -> HTML -> DOMPurify -> DOM, and no HTML is made after that.
 *
 * Markup in the text is shown as text; images become links; links go to http, https and mailto. This
 * module knows nothing of turns or of where its DOM is put.
 */

import { escape, escapeUnnamed } from "./entities.js";
import { mathIn } from "./math.js";
import { blockMath, inlineMath, OurLexer, OurTokenizer } from "./parser.js";
import { LONGEST } from "./sections.js";
import { Marked, Parser } from "../vendor/marked.esm.js";
import DOMPurify from "../vendor/purify.es.mjs";

const ALLOWED_LINK = /^(?:https?:\/\/|mailto:)/i;

const SAFE = Object.freeze({
  ALLOWED_TAGS: [
    ...["a", "blockquote", "br", "code", "del", "em", "h3", "h4", "h5", "h6", "hr", "li", "ol"],
    ...["p", "pre", "span", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul"],
  ],
  ALLOWED_ATTR: ["align", "class", "href", "rel", "start", "target", "title"],
  ADD_URI_SAFE_ATTR: ["align", "rel", "start", "target"],
  ALLOWED_URI_REGEXP: ALLOWED_LINK,
  ALLOW_ARIA_ATTR: false,
  ALLOW_DATA_ATTR: false,
  RETURN_TRUSTED_TYPE: true,
});

/** What makes more tags is shown as it is. */
const MOST_TAGS = 3000;
/** marked looks at each character of such a run again and again. */
const LONG_RUN = /[!-~]{1500}|[ \t]{1500}/;
const DEFINITION = /^[ \t>*+\d.)-]{0,40}\[[^\]\n]{1,999}\]:/m;

const renderer = {
  html: ({ text }) => escape(text),
  text({ tokens, text }) {
    return tokens ? this.parser.parseInline(tokens) : escapeUnnamed(text);
  },
  /** The page has the first two levels. */
  heading({ tokens, depth, raw }) {
    const level = Math.min(6, depth + 2);
    if (!tokens.length) return `<p>${lines(raw.trim())}</p>\n`;
    return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>\n`;
  },
  blockquote(token) {
    return holdsText(token) ? false : `<p>${lines(token.raw)}</p>\n`;
  },
  listitem({ task, tokens }) {
    return `<li${task ? ' class="task"' : ""}>${this.parser.parse(tokens)}</li>\n`;
  },
  checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  image(token) {
    return anchor(token, escape(token.text));
  },
  link(token) {
    return anchor(token, this.parser.parseInline(token.tokens));
  },
  /** Models write sources, and much else, as what looks like a link that is used elsewhere. */
  def({ raw, href }) {
    const at = raw.indexOf(href, raw.indexOf("]:"));
    if (at < 0 || !ALLOWED_LINK.test(href)) return `<p>${lines(raw)}</p>\n`;
    const link = anchor({ href, raw: href }, escape(href));
    return `<p>${lines(raw.slice(0, at))}${link}${lines(raw.slice(at + href.length))}</p>\n`;
  },
  code({ text, lang }) {
    const info = lang ? ` title="${escape(lang)}"` : "";
    return `<pre><code${info}>${escape(text.replace(/\n$/, ""))}\n</code></pre>\n`;
  },
};

const shown = ({ raw }) => `<span class="math">${escape(raw.replace(/\n$/, ""))}</span>`;
const extensions = [
  { ...inlineMath, renderer: shown },
  { ...blockMath, renderer: (token) => `<p>${shown(token)}</p>\n` },
];

/** `breaks`: what a model writes on a line of its own stays there. */
const { defaults: OPTIONS } = new Marked({ gfm: true, breaks: true, renderer, extensions });
OPTIONS.tokenizer = new OurTokenizer(OPTIONS);

const lines = (text) => escape(text).replaceAll("\n", "<br>");

/** What may not be a link is shown as it was written. */
function anchor({ href, title, raw }, content) {
  if (!ALLOWED_LINK.test(href)) return lines(raw);
  const address = escape(href);
  const told = title ? `${escape(title)}\n${address}` : address;
  const guard = 'target="_blank" rel="noopener noreferrer nofollow"';
  return `<a href="${address}" title="${told}" ${guard}>${content.trim() ? content : address}</a>`;
}

/**
 * Parse a text without fenced code into its top-level blocks.
 *
 * @param {object} links reference links by their names
 * @param {boolean} isOpen more text may come
 * @returns {string[] | null} their HTML; null where the text is too long, too deep or too dear for
 *   that, or fails, and is to be shown as it is
 */
export function blocks(text, links, isOpen) {
  const bare = text.trimEnd();
  if (bare.length > LONGEST || LONG_RUN.test(bare)) return null;
  try {
    // The lexer adds what it finds, and others are not to depend on that.
    const known = bare.includes("[") ? Object.assign(Object.create(null), links) : links;
    const tokens = new OurLexer(OPTIONS, known, isOpen).lex(bare);
    const made = tokens.filter(isVisible).map((token) => Parser.parse([token], OPTIONS));
    return tagsOf(made) > MOST_TAGS ? null : made;
  } catch {
    return null;
  }
}

const isVisible = ({ type }) => type !== "space";

/** Whether a quote, or one in it, has anything in it. */
function holdsText({ tokens }) {
  return tokens.some((one) => (one.type === "blockquote" ? holdsText(one) : isVisible(one)));
}

function tagsOf(made) {
  return made.reduce((sum, html) => sum + html.split("<").length - 1, 0);
}

/** Whether a text looks as if it defined reference links. */
export function defines(text) {
  return text.length <= LONGEST && DEFINITION.test(text);
}

/** Add the reference links that a text defines to `links`; the first of a name counts. */
export function define(text, links) {
  const found = Object.create(null);
  try {
    new OurLexer(OPTIONS, found, false).blockTokens(text);
  } catch {
    return;
  }
  for (const name of Object.keys(found)) links[name] ??= found[name];
}

/** Make safe DOM of one block's HTML. */
export function safeFragment(html) {
  const template = document.createElement("template");
  template.innerHTML = DOMPurify.sanitize(html, SAFE);
  return template.content;
}

/**
 * While text still comes, end what it has only begun, so that nothing flickers: an emphasis, code
 * or link without its end, a line that would make a heading of the one above it.
 */
export function completed(text) {
  if (insideFence(text)) return text;
  const end = Math.max(text.lastIndexOf("\n\n"), text.lastIndexOf("\n#")) + 1;
  const head = text.slice(0, end);
  let tail = text.slice(end).replace(/\n[ \t]*(?:=+|-+|\*+|_+)[ \t]*$/, "\n");
  const ticks = tail.match(/`+/g) ?? [];
  if (ticks.length % 2) {
    const justBegun = tail.endsWith(ticks.at(-1));
    return head + (justBegun ? tail.slice(0, -ticks.at(-1).length) : tail + ticks.at(-1));
  }
  const math = mathIn(tail, true);
  if (math.at(-1)?.end === tail.length) return head + tail;
  tail = tail.replace(/!?\[([^\][\n]*)(?:\]\([^)\n]*)?$/, "$1");
  for (const mark of ["**", "~~"]) tail = closed(tail, mark);
  return head + tail;
}

function closed(tail, mark) {
  const math = mathIn(tail, true).reverse();
  const bared = math.reduce((text, { start, end }) => text.slice(0, start) + text.slice(end), tail);
  const prose = bared.replace(/(`+)[^`]*\1/g, "");
  if (prose.split(mark).length % 2) return tail;
  const bare = tail.trimEnd();
  return bare.endsWith(mark) ? bare.slice(0, -mark.length) : bare + mark;
}

function insideFence(text) {
  let open = null;
  for (const [, fence, rest] of text.matchAll(/^[ \t>]*(`{3,}|~{3,})(.*)$/gm)) {
    if (!open) open = fence;
    else if (fence[0] === open[0] && fence.length >= open.length && !rest.trim()) open = null;
  }
  return open !== null;
}

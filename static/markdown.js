/**
 * Markdown of a model, which nobody has checked, as DOM that can do no harm:
 * markdown -> HTML -> DOMPurify -> DOM, and no HTML is made after that.
 *
 * Markup in the text is shown as text; images become links; links go to http, https and mailto.
 */

import DOMPurify from "./vendor/purify.es.mjs";
import { Lexer, Marked, Parser } from "./vendor/marked.esm.js";

const ALLOWED_LINK = /^(?:https?:\/\/|mailto:)/i;

const SAFE = Object.freeze({
  ALLOWED_TAGS: [
    ...["a", "blockquote", "br", "code", "del", "em", "h3", "h4", "h5", "h6", "hr", "li", "ol"],
    ...["p", "pre", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul"],
  ],
  ALLOWED_ATTR: ["align", "class", "href", "rel", "start", "target", "title"],
  ADD_URI_SAFE_ATTR: ["align", "rel", "start", "target"],
  ALLOWED_URI_REGEXP: ALLOWED_LINK,
  ALLOW_ARIA_ATTR: false,
  ALLOW_DATA_ATTR: false,
  RETURN_TRUSTED_TYPE: true,
});

const ENTITIES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
const escape = (text) => text.replace(/[&<>"']/g, (character) => ENTITIES[character]);

/** Markup is no token of ours, so it stays text, and markdown works inside it. */
const tokenizer = { html: () => undefined, tag: () => undefined };

const renderer = {
  html: ({ text }) => escape(text),
  /** The page has the first two levels. */
  heading({ tokens, depth }) {
    const level = Math.min(6, depth + 2);
    return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>\n`;
  },
  listitem({ task, tokens }) {
    return `<li${task ? ' class="task"' : ""}>${this.parser.parse(tokens)}</li>\n`;
  },
  checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  image({ href, text }) {
    return anchor(href, escape(text || href));
  },
  link({ href, tokens }) {
    return anchor(href, this.parser.parseInline(tokens));
  },
  code({ text, lang }) {
    const language = /^[\w+#.-]{1,30}/.exec(lang ?? "")?.[0];
    const name = language ? ` class="language-${escape(language)}"` : "";
    return `<pre><code${name}>${escape(text.replace(/\n$/, ""))}\n</code></pre>\n`;
  },
};

/** `breaks`: what a model writes on a line of its own stays there. */
const { defaults: OPTIONS } = new Marked({ gfm: true, breaks: true, renderer, tokenizer });

function anchor(href, content) {
  if (!ALLOWED_LINK.test(href)) return content;
  const address = escape(href);
  const guard = 'target="_blank" rel="noopener noreferrer nofollow"';
  return `<a href="${address}" title="${address}" ${guard}>${content}</a>`;
}

/**
 * Split markdown into its top-level blocks.
 *
 * @param {string} text
 * @param {object} [links] reference links that stood in front of `text`; new ones are added
 * @returns {{raw: string, html: string}[]}
 */
export function blocks(text, links = {}) {
  const lexer = new Lexer(OPTIONS);
  Object.assign(lexer.tokens.links, links);
  const tokens = lexer.lex(text);
  Object.assign(links, tokens.links);
  const made = [];
  for (const token of tokens) {
    if (token.type === "space" || token.type === "def") {
      if (made.length) made.at(-1).raw += token.raw;
      else made.push({ raw: token.raw, html: "" });
    } else {
      made.push({ raw: token.raw, html: Parser.parse([token], OPTIONS) });
    }
  }
  return made;
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
  tail = tail.replace(/!?\[([^\][\n]*)(?:\]\([^)\n]*)?$/, "$1");
  for (const mark of ["**", "~~"]) tail = closed(tail, mark);
  return head + tail;
}

function closed(tail, mark) {
  const prose = tail.replace(/(`+)[^`]*\1/g, "");
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

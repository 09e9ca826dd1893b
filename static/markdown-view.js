/**
 * An answer while it grows. Finished blocks are left alone, with the reader's selection in them;
 * only the tail is parsed again. The end result is that of rendering the whole text at once.
 */

import { codeBlock, growCode } from "./code-block.js";
import { blocks, completed, safeFragment } from "./markdown.js";

/** The last blocks may still change their kind when more text comes. */
const OPEN_BLOCKS = 2;

export class MarkdownView {
  #target;
  /** What is shown: each block's HTML, and the elements made of it. */
  #shown = [];
  /** So many of these are finished; they were made of `#frozenText`. */
  #frozen = 0;
  #frozenText = "";
  #links = {};

  constructor(target) {
    this.#target = target;
  }

  /** Show `text`. It is `final` when no more will come. */
  update(text, final) {
    if (text.includes("\r")) text = text.replace(/\r\n?/g, "\n");
    if (final || !text.startsWith(this.#frozenText)) this.#thaw();
    const tail = text.slice(this.#frozenText.length);
    // Definitions in the open tail may still change: only frozen ones are kept.
    const fresh = blocks(final ? tail : completed(tail), { ...this.#links });
    this.#show(fresh);
    if (!final) this.#freeze(tail, fresh);
  }

  #thaw() {
    this.#frozen = 0;
    this.#frozenText = "";
    this.#links = {};
  }

  #freeze(tail, fresh) {
    const done = fresh.slice(0, -OPEN_BLOCKS);
    const raw = done.map((block) => block.raw).join("");
    if (!raw || !tail.startsWith(raw)) return;
    blocks(raw, this.#links);
    this.#frozen += done.length;
    this.#frozenText += raw;
  }

  #show(fresh) {
    let at = this.#frozen;
    for (const { html } of fresh) {
      const old = this.#shown[at];
      if (old?.html !== html) this.#replace(at, html, old);
      at++;
    }
    for (const { nodes } of this.#shown.splice(at)) nodes.forEach((node) => node.remove());
  }

  #replace(at, html, old) {
    const fragment = safeFragment(html);
    if (old && growCode(old.nodes, fragment)) {
      old.html = html;
      return;
    }
    for (const pre of fragment.querySelectorAll("pre")) codeBlock(pre);
    for (const table of fragment.querySelectorAll("table")) scrollable(table);
    const nodes = [...fragment.childNodes];
    const after = this.#firstFrom(at + 1);
    old?.nodes.forEach((node) => node.remove());
    this.#target.insertBefore(fragment, after);
    this.#shown[at] = { html, nodes };
  }

  #firstFrom(at) {
    for (const { nodes } of this.#shown.slice(at)) if (nodes.length) return nodes[0];
    return null;
  }
}

function scrollable(table) {
  const frame = document.createElement("div");
  frame.className = "table";
  frame.tabIndex = 0;
  frame.setAttribute("role", "group");
  frame.setAttribute("aria-label", "Table");
  table.replaceWith(frame);
  frame.append(table);
}

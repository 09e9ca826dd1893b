/**
 * The blocks of a text in the page. What is the same as before is not touched. This module knows
 * nothing of markdown or of when text comes.
 */

import { codeBlock } from "./code-block.js";
import { element } from "./dom.js";
import { safeFragment } from "./markdown.js";
import { showPieces } from "./pieces.js";

/**
 * @typedef {object} Block
 * @property {"html"|"code"|"plain"} kind
 * @property {string} text its HTML, or the text as it is
 * @property {string} [info] of code: what stands behind its fence
 */

export class BlockList {
  #target;
  /** Each block, its nodes, and the part that they are in. */
  #shown = [];
  /** By their numbers; the first part is the target itself. */
  #parts = [];

  constructor(target) {
    this.#target = target;
    this.#parts[0] = target;
  }

  /**
   * Show a block as the one at `at`; those before it are there.
   *
   * @param {Block} block
   * @param {number} number of its part, which is laid out when it comes into view
   */
  put(at, block, number) {
    const part = this.#partOf(number);
    const old = this.#shown[at];
    if (old?.part === part && keeps(old, block)) return;
    const nodes = nodesOf(block);
    const after = this.#after(at, part);
    old?.nodes.forEach((node) => node.remove());
    for (const node of nodes) part.insertBefore(node, after);
    this.#shown[at] = { ...block, nodes, part };
  }

  /** Take away what is at `at` and behind. */
  cutOff(at) {
    for (const { nodes } of this.#shown.splice(at)) nodes.forEach((node) => node.remove());
    while (this.#parts.length > 1 && !this.#parts.at(-1)?.hasChildNodes()) {
      this.#parts.pop()?.remove();
    }
  }

  #partOf(number) {
    const known = this.#parts[number];
    if (known) return known;
    const next = this.#parts.find((_, at) => at > number);
    const made = element("div", { class: "part" });
    this.#target.insertBefore(made, next ?? null);
    this.#parts[number] = made;
    return made;
  }

  /** The node that what is put at `at` stands in front of. */
  #after(at, part) {
    for (let next = at + 1; this.#shown[next]?.part === part; next++) {
      const [first] = this.#shown[next].nodes;
      if (first) return first;
    }
    return part === this.#target ? (this.#parts.find((_, number) => number > 0) ?? null) : null;
  }
}

/** Whether the nodes of `old` show `block`, or can, in place. */
function keeps(old, block) {
  if (old.kind !== block.kind || old.info !== block.info) return false;
  if (old.text === block.text) return true;
  if (block.kind === "html") return false;
  showPieces(block.kind === "code" ? old.nodes[0].querySelector("code") : old.nodes[0], block.text);
  old.text = block.text;
  return true;
}

/** @param {Block} block */
function nodesOf({ kind, text, info }) {
  if (kind === "html") return dressed(safeFragment(text));
  const isCode = kind === "code";
  const holder = isCode ? element("code") : element("div", { class: "verbatim" });
  showPieces(holder, text);
  return [isCode ? codeBlock(element("pre", {}, holder), info) : holder];
}

function dressed(fragment) {
  for (const pre of fragment.querySelectorAll("pre")) {
    const info = pre.firstElementChild?.title ?? "";
    pre.firstElementChild?.removeAttribute("title");
    const place = document.createTextNode("");
    pre.replaceWith(place);
    place.replaceWith(codeBlock(pre, info));
  }
  for (const table of fragment.querySelectorAll("table")) scrollable(table);
  return [...fragment.childNodes];
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

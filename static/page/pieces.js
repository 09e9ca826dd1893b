/**
 * Text as it is, however long: in pieces, of which the browser lays out those in view only.
 * Together they hold the text and nothing else. This module knows nothing of markdown.
 */

import { element } from "./dom.js";

/** A piece has at most so many characters and lines. */
const SIZE = 4096;
const LINES = 200;
const NEW_LINE = "\n";

/** Show `text`; what is there already stays, with the reader's selection in it. */
export function showPieces(target, text) {
  const parts = [...cut(text)];
  if (parts.length === 1) {
    if (target.firstElementChild) target.replaceChildren();
    fill(target, parts[0]);
    return;
  }
  const { children } = target;
  if (!children.length) target.replaceChildren();
  parts.forEach((part, at) => {
    if (!children[at]) target.append(element("span", { class: "piece" }));
    fill(children[at], part);
  });
  while (children.length > parts.length) target.lastElementChild.remove();
}

function fill(target, text) {
  const node = target.firstChild;
  if (!node) {
    target.append(text);
    return;
  }
  if (node.data === text) return;
  const before = node.data.replace(/\n$/, "");
  if (!text.startsWith(before)) node.data = text;
  else node.replaceData(before.length, node.data.length, text.slice(before.length));
}

/** Where a text is cut depends on what stands before the cut and right after it, no more. */
function* cut(text) {
  let at = 0;
  while (text.length > at) {
    const size = sizeOf(text.slice(at, at + SIZE), text.length - at > SIZE);
    yield text.slice(at, at + size);
    at += size;
  }
  if (!at) yield "";
}

function sizeOf(window, goesOn) {
  let end = 0;
  for (let lines = 0; lines < LINES; lines++) {
    const next = window.indexOf(NEW_LINE, end) + 1;
    if (!next) break;
    end = next;
    if (lines === LINES - 1) return end;
  }
  if (!goesOn) return window.length;
  return end || window.lastIndexOf(" ") + 1 || whole(window);
}

/** A pair of surrogates stays together. */
function whole(window) {
  return window.length - (/[\ud800-\udbff]$/.test(window) ? 1 : 0);
}

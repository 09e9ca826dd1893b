/**
 * A block of code: what its fence says of it, and a button that copies it. This module knows nothing
 * of markdown.
 */

import { copyButton } from "./clipboard.js";
import { element } from "./dom.js";

/**
 * Put a `pre` into the frame of a block of code.
 *
 * @param {HTMLElement} pre that stands nowhere yet
 * @param {string} info its language and what stands behind that; may be empty
 * @returns {HTMLElement} the frame
 */
export function codeBlock(pre, info) {
  pre.tabIndex = 0;
  pre.setAttribute("role", "group");
  pre.setAttribute("aria-label", info ? `Code, ${info}` : "Code");
  const copy = copyButton("Copy code", () => pre.textContent.replace(/\n$/, ""));
  const bar = element("div", { class: "code-bar" }, element("span", {}, info || "code"), copy);
  return element("div", { class: "code" }, bar, pre);
}

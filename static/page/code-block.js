/**
 * A block of code: its language, and a button that copies it. This module knows nothing of
 * markdown.
 */

import { copyButton } from "./clipboard.js";
import { element } from "./dom.js";

/**
 * Put a `pre` into the frame of a block of code.
 *
 * @param {HTMLElement} pre that stands nowhere yet
 * @param {string} language may be empty
 * @returns {HTMLElement} the frame
 */
export function codeBlock(pre, language) {
  pre.tabIndex = 0;
  pre.setAttribute("role", "group");
  pre.setAttribute("aria-label", language ? `Code, ${language}` : "Code");
  const copy = copyButton("Copy code", () => pre.textContent.replace(/\n$/, ""));
  const bar = element("div", { class: "code-bar" }, element("span", {}, language || "code"), copy);
  return element("div", { class: "code" }, bar, pre);
}

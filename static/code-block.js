/** A block of code: its language, a button that copies it, and code that grows in place. */

import { copyButton } from "./clipboard.js";
import { element } from "./dom.js";

/** Dress a `pre` up, where it stands. */
export function codeBlock(pre) {
  const code = pre.querySelector("code") ?? pre;
  const language = languageOf(code);
  const frame = element("div", { class: "code" });
  pre.replaceWith(frame);
  pre.tabIndex = 0;
  pre.setAttribute("role", "group");
  pre.setAttribute("aria-label", language ? `Code, ${language}` : "Code");
  frame.append(
    element(
      "div",
      { class: "code-bar" },
      element("span", {}, language || "code"),
      copyButton("Copy code", () => code.textContent.replace(/\n$/, "")),
    ),
    pre,
  );
}

/**
 * Where a code block is shown and the same one came with more text, append what is new.
 *
 * @returns {boolean} whether that was so; if not, nothing was done
 */
export function growCode(nodes, fragment) {
  const frame = elements(nodes);
  const fresh = elements(fragment.childNodes);
  if (frame.length !== 1 || fresh.length !== 1) return false;
  if (!frame[0].matches(".code") || !fresh[0].matches("pre")) return false;
  const code = frame[0].querySelector("code");
  const next = fresh[0].querySelector("code");
  const text = code?.firstChild;
  if (!text || !next || languageOf(code) !== languageOf(next)) return false;
  const before = text.data.replace(/\n$/, "");
  if (!next.textContent.startsWith(before)) return false;
  text.replaceData(before.length, text.data.length, next.textContent.slice(before.length));
  return true;
}

function elements(nodes) {
  return [...nodes].filter((node) => node.nodeType === Node.ELEMENT_NODE);
}

function languageOf(code) {
  return /\blanguage-(\S+)/.exec(code.className)?.[1] ?? "";
}

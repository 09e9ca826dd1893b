/**
 * Copying, also on pages that are not on a secure origin. This module knows nothing of what is
 * copied.
 */

import { button, element, icon } from "./dom.js";

const SHOWN = 1600;

/** Make a button that copies what `text()` returns, and says that it did. */
export function copyButton(label, text, attributes = {}) {
  const caption = element("span", { class: "caption" }, "Copy");
  const made = button(
    { class: "quiet", title: label, "aria-label": label, ...attributes },
    [icon("copy"), caption],
    async () => {
      const done = await copy(text());
      caption.textContent = done ? "Copied" : "Not copied";
      made.setAttribute("aria-label", caption.textContent);
      setTimeout(() => {
        caption.textContent = "Copy";
        made.setAttribute("aria-label", label);
      }, SHOWN);
    },
  );
  return made;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text);
  }
}

function copyBySelection(text) {
  const area = element("textarea", { class: "visually-hidden", readonly: true });
  area.value = text;
  const focused = /** @type {HTMLElement | null} */ (document.activeElement);
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  focused?.focus();
  return done;
}

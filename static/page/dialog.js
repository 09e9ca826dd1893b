/** Questions that wait for an answer. This module knows nothing of what they are about. */

import { button, element } from "./dom.js";

/** Ask before something is done for good. Resolves with whether to do it. */
export async function confirmed({ title, text, action }) {
  return (await ask(title, [element("p", {}, text)], action, "danger")) !== null;
}

/** Ask for a line of text. Resolves with it, or with null. */
export async function askedFor({ title, label, value, action, maxLength }) {
  const input = element("input", { type: "text", value, maxlength: maxLength, required: true });
  const field = element("label", { class: "field" }, element("span", {}, label), input);
  const answer = await ask(title, [field], action, "primary", input);
  return answer === null ? null : input.value.trim() || null;
}

function ask(title, content, action, kind, focus) {
  const accept = element("button", { type: "submit", class: kind, value: "accept" }, action);
  const cancel = button({ class: "plain" }, "Cancel", () => dialog.close());
  const form = element(
    "form",
    { method: "dialog" },
    element("h2", { id: "dialog-title" }, title),
    ...content,
    element("div", { class: "dialog-actions" }, cancel, accept),
  );
  const dialog = element("dialog", { "aria-labelledby": "dialog-title" }, form);
  document.body.append(dialog);
  dialog.showModal();
  (focus ?? cancel).focus();
  focus?.select();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "accept" ? "accept" : null);
    });
  });
}

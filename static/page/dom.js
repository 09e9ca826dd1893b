/**
 * Elements without markup: text goes in as text, so nothing here can be injected into. This module
 * knows nothing of chats.
 */

/** Make an element. Attributes that are null, undefined or false are left out. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

/** Draw one of the symbols that index.html defines. */
export function icon(name) {
  const namespace = "http://www.w3.org/2000/svg";
  const drawing = document.createElementNS(namespace, "svg");
  drawing.setAttribute("class", "icon");
  drawing.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(namespace, "use");
  use.setAttribute("href", `#icon-${name}`);
  drawing.append(use);
  return drawing;
}

/** Make a button that does something. */
export function button(attributes, content, onClick) {
  const made = element("button", { type: "button", ...attributes }, ...[content].flat());
  made.addEventListener("click", onClick);
  return made;
}

/** Set text only where it differs, so that selections and screen readers are left alone. */
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/**
 * The side bar on a narrow screen: a drawer over the page, and out of reach while it is shut. This
 * module knows nothing of what lies in it.
 */

import { icon } from "./dom.js";

const narrow = matchMedia("(max-width: 52rem)");

export class Drawer {
  #drawer;
  #opener;
  #closer;
  #backdrop;
  #page;
  #open = false;

  constructor({ drawer, opener, closer, backdrop, page }) {
    this.#drawer = drawer;
    this.#opener = opener;
    this.#closer = closer;
    this.#backdrop = backdrop;
    this.#page = page;
    opener.append(icon("menu"));
    closer.append(icon("close"));
    opener.addEventListener("click", () => this.#set(true));
    closer.addEventListener("click", () => this.close());
    backdrop.addEventListener("click", () => this.close());
    narrow.addEventListener("change", () => this.#set(false));
    this.#set(false);
  }

  /** Whether it was open. */
  close() {
    const wasOpen = this.#open;
    this.#set(false);
    if (wasOpen) this.#opener.focus();
    return wasOpen;
  }

  #set(open) {
    this.#open = open;
    this.#drawer.classList.toggle("open", open);
    this.#drawer.inert = narrow.matches && !open;
    this.#page.inert = open;
    this.#backdrop.hidden = !open;
    this.#opener.setAttribute("aria-expanded", String(open));
    if (open) this.#closer.focus();
  }
}

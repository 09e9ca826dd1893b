/**
 * Older messages: loaded when the reader comes near the first one, or asks for them. This module
 * knows nothing of messages or of how they are read.
 */

import { button, element, setText } from "./dom.js";

/** How far above the top of what is in view loading begins. */
const AHEAD = "600px 0px 0px 0px";

export class History {
  element;
  #button;
  #load;
  #loading = false;
  #hasMore = false;
  #near = false;

  /**
   * @param {Element} scroller
   * @param {() => Promise<void>} load rejects where the page could not be had
   */
  constructor(scroller, load) {
    this.#load = load;
    this.#button = button({ class: "older" }, "Show older messages", () => this.#more());
    this.element = element("div", { class: "history" }, this.#button);
    this.element.hidden = true;
    const observer = new IntersectionObserver(
      ([entry]) => {
        this.#near = entry.isIntersecting;
        if (this.#near) this.#more();
      },
      { root: scroller, rootMargin: AHEAD },
    );
    observer.observe(this.element);
  }

  update(hasMore) {
    this.#hasMore = hasMore;
    this.element.hidden = !hasMore;
  }

  async #more() {
    if (this.#loading || !this.#hasMore) return;
    this.#loading = true;
    setText(this.#button, "Loading older messages…");
    try {
      await this.#load();
      setText(this.#button, "Show older messages");
    } catch {
      setText(this.#button, "Older messages could not be loaded. Try again");
      this.#near = false;
    } finally {
      this.#loading = false;
    }
    // A page may be too short to push this out of view: the observer would stay silent.
    if (this.#near) requestAnimationFrame(() => this.#near && this.#more());
  }
}

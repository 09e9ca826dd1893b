/**
 * Keep a list's end in view while it grows, until the reader scrolls away from it. This module
 * knows nothing of what the list holds.
 */

/** So near to the end counts as at the end, in px. */
const NEAR = 80;

export class StickyScroll {
  #scroller;
  #following = true;
  #top = 0;
  #onChange;

  /** @param {(following: boolean) => void} onChange */
  constructor(scroller, content, onChange) {
    this.#scroller = scroller;
    this.#onChange = onChange;
    const observer = new ResizeObserver(() => this.#follow());
    observer.observe(content);
    observer.observe(scroller);
    scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    const away = (event) => event.deltaY < 0 && this.#overflows() && this.#set(false);
    scroller.addEventListener("wheel", away, { passive: true });
  }

  /** Go to the end and stay there. */
  toEnd() {
    this.#set(true);
    this.#follow();
  }

  /** Change what is above `items`, and keep the first of them that is in view where it is. */
  hold(items, change) {
    const { top } = this.#scroller.getBoundingClientRect();
    const anchor = [...items].find((item) => item.getBoundingClientRect().bottom > top);
    const before = anchor?.getBoundingClientRect().top;
    change();
    if (!anchor?.isConnected) return;
    this.#scroller.scrollTop += anchor.getBoundingClientRect().top - before;
    this.#top = this.#scroller.scrollTop;
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    const up = scrollTop < this.#top - 1;
    this.#top = scrollTop;
    if (scrollHeight - scrollTop - clientHeight < NEAR) {
      if (!up) this.#set(true);
    } else if (up) {
      this.#set(false);
    }
  }

  #overflows() {
    return this.#scroller.scrollHeight > this.#scroller.clientHeight + 1;
  }

  #follow() {
    if (!this.#following) return;
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#top = this.#scroller.scrollTop;
  }

  #set(following) {
    if (following === this.#following) return;
    this.#following = following;
    this.#onChange(following);
  }
}

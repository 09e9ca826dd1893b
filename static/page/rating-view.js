/**
 * Thumbs up and down, and a comment if one cares to give it. This module knows nothing of turns or
 * of the server.
 */

import { button, element, icon, setText } from "./dom.js";

const GOOD = 5;
const BAD = 1;
/** From the server's scale of 1 to 5: the middle is neither. */
const isGood = (rating) => rating > 3;
const isBad = (rating) => rating < 3;

export class RatingView {
  buttons;
  form;
  #box;
  #thanks;
  #feedback = null;
  #rate;

  /** @param {(feedback: object) => Promise<boolean>} rate resolves with whether it was kept */
  constructor(rate) {
    this.#rate = rate;
    this.buttons = [this.#thumb("up", "Good answer", GOOD), this.#thumb("down", "Bad answer", BAD)];
    this.#box = element("textarea", { rows: "2", maxlength: "2000" });
    this.#thanks = element("p", { class: "thanks", role: "status" });
    this.form = this.#makeForm();
    this.form.hidden = true;
  }

  update(feedback) {
    if (feedback === this.#feedback) return;
    this.#feedback = feedback;
    const [up, down] = this.buttons;
    up.setAttribute("aria-pressed", String(Boolean(feedback) && isGood(feedback.rating)));
    down.setAttribute("aria-pressed", String(Boolean(feedback) && isBad(feedback.rating)));
  }

  /** Put an unsent comment away, as when another answer takes this one's place. */
  hide() {
    this.form.hidden = true;
  }

  #thumb(name, label, rating) {
    const attributes = { class: "quiet", title: label, "aria-label": label, "aria-pressed": "false" };
    return button(attributes, icon(name), () => this.#press(rating));
  }

  async #press(rating) {
    const question = isGood(rating) ? "What was good about it?" : "What was wrong with it?";
    setText(this.form.querySelector("span"), `${question} (optional)`);
    setText(this.#thanks, "");
    this.form.hidden = false;
    this.#box.value = this.#feedback?.comments ?? "";
    this.#box.focus();
    const comments = this.#feedback?.comments ?? undefined;
    if (!(await this.#rate({ rating, comments }))) this.form.hidden = true;
  }

  #makeForm() {
    const field = element("label", { class: "field" }, element("span"), this.#box);
    const close = button({ class: "plain" }, "Close", () => this.#close());
    const send = element("button", { type: "submit", class: "primary" }, "Send comment");
    const actions = element("div", { class: "form-actions" }, this.#thanks, close, send);
    const form = element("form", { class: "comment" }, field, actions);
    form.addEventListener("submit", (event) => this.#submit(event));
    form.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      this.#close();
    });
    return form;
  }

  async #submit(event) {
    event.preventDefault();
    const comments = this.#box.value.trim();
    if (!comments) return this.#close();
    const kept = await this.#rate({ rating: this.#feedback.rating, comments });
    if (!kept) return;
    setText(this.#thanks, "Thank you. Your comment was kept.");
  }

  #close() {
    this.form.hidden = true;
    this.buttons[isGood(this.#feedback?.rating ?? GOOD) ? 0 : 1].focus();
  }
}

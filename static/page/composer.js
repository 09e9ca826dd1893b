/**
 * Where a message is written, and its draft. Enter sends, Shift+Enter breaks the line, Esc stops.
 * This module knows nothing of turns or of the server: what is pressed goes to its handlers.
 */

import { icon, setText } from "./dom.js";
import { store, stored } from "./storage.js";

/** On touch screens Enter breaks the line, as their keyboards have no Shift+Enter. */
const touch = matchMedia("(pointer: coarse)");

export class Composer {
  #form;
  #box;
  #hint;
  #send;
  #stop;
  #key;
  #running = false;
  #onSubmit;
  /** What becomes of the text instead, while an earlier message is edited. */
  #revise = null;
  #revising;
  #recall;

  /**
   * @param {HTMLFormElement} form
   * @param {{onSubmit: (text: string) => void, onStop: () => void, onRecall: () => void}} handlers
   *   the last one is for the up arrow in an empty box
   */
  constructor(form, { onSubmit, onStop, onRecall }) {
    this.#form = form;
    this.#box = form.querySelector("textarea");
    this.#hint = form.querySelector(".keys");
    this.#send = form.querySelector(".send");
    this.#stop = form.querySelector(".stop");
    this.#send.append(icon("send"));
    this.#stop.append(icon("stop"));
    this.#onSubmit = onSubmit;
    this.#recall = onRecall;
    this.#revising = form.querySelector(".revising");
    this.#revising.querySelector("button").addEventListener("click", () => this.#leave());
    form.addEventListener("submit", (event) => this.#submit(event));
    this.#stop.addEventListener("click", () => {
      onStop();
      this.#box.focus();
    });
    this.#box.addEventListener("keydown", (event) => this.#pressed(event));
    this.#box.addEventListener("input", () => this.#changed());
  }

  /** Show the draft of another conversation. */
  open(key) {
    this.#key = `draft:${key}`;
    this.#leave();
  }

  /** Put text into the box, to be worked on. */
  fill(text) {
    this.#box.value = text;
    this.#changed();
  }

  /** Work on an earlier message; `revise(text)` gets the outcome. The draft waits meanwhile. */
  edit(text, note, revise) {
    this.#revise = revise;
    setText(this.#revising.querySelector("span"), note);
    this.#revising.hidden = false;
    this.fill(text);
    this.#box.focus();
  }

  focus() {
    if (!touch.matches) this.#box.focus();
  }

  /** While an answer comes, the button that sends is the one that stops. */
  update({ running, stoppable }) {
    const focused = document.activeElement;
    this.#running = running;
    this.#stop.hidden = !running;
    this.#send.hidden = running;
    this.#stop.disabled = !stoppable;
    setText(this.#hint, running ? "Esc stops the answer" : "Enter sends, Shift+Enter breaks the line");
    if (focused === this.#stop && !running) this.#box.focus();
  }

  #pressed(event) {
    // Enter that picks a word of an input method is no Enter of ours; Safari ends the
    // composition before the key goes down, and tells by the key code 229 only.
    if (event.isComposing || event.keyCode === 229) return;
    if (event.shiftKey || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "Enter" && !touch.matches) {
      event.preventDefault();
      this.#form.requestSubmit();
    } else if (event.key === "Escape" && this.#revise) {
      event.stopPropagation();
      this.#leave();
    } else if (event.key === "ArrowUp" && !this.#box.value && !this.#running) {
      event.preventDefault();
      this.#recall();
    }
  }

  #submit(event) {
    event.preventDefault();
    const text = this.#box.value;
    if (this.#running || !text.trim()) return;
    const revise = this.#revise;
    if (revise) this.#leave();
    else this.fill("");
    this.#box.focus();
    (revise ?? this.#onSubmit)(text);
  }

  /** Go back from editing to the draft. */
  #leave() {
    this.#revise = null;
    this.#revising.hidden = true;
    this.fill(stored(this.#key) ?? "");
  }

  #changed() {
    if (!this.#revise) store(this.#key, this.#box.value);
    this.#send.disabled = !this.#box.value.trim();
    if (CSS.supports("field-sizing", "content")) return;
    this.#box.style.height = "auto";
    this.#box.style.height = `${this.#box.scrollHeight}px`;
  }
}

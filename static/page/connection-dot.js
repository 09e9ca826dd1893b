/**
 * The state of the connection: quiet while all is well, words when it matters. This module knows
 * nothing of the connection itself: it is told.
 */

import { setText } from "./dom.js";

/** A cut that heals sooner is not worth a word (ms). */
const BLINK = 1000;

const WORDS = {
  connecting: "Connecting…",
  live: "Live",
  reconnecting: "Reconnecting…",
  offline: "Offline",
  refused: "Refused",
};

export class ConnectionDot {
  #element;
  #words;
  #retry;
  #timer;

  /** @param {() => void} onRetry the user does not want to wait */
  constructor(target, onRetry) {
    this.#element = target;
    this.#words = target.querySelector(".words");
    this.#retry = target.querySelector("button");
    this.#retry.addEventListener("click", onRetry);
    this.#show("connecting");
  }

  /** Show a state of `ChatstreamClient.subscribe`. */
  update(state, error) {
    clearTimeout(this.#timer);
    if (state === "reconnecting") this.#timer = setTimeout(() => this.#show(state), BLINK);
    else this.#show(state, error);
  }

  #show(state, error) {
    this.#element.dataset.state = state;
    setText(this.#words, WORDS[state]);
    this.#element.title = error?.message ?? "";
    this.#retry.hidden = state !== "offline" && state !== "refused";
  }
}

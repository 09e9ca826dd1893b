/** Silence, measured. This module knows nothing of who is silent. */

/** Tells when a line was silent for too long, whatever TCP says. */
export class Watchdog {
  #timer;
  #heard = Date.now();

  /** `bark` is called again and again while nothing was heard for `patience` ms. */
  constructor(patience, bark) {
    this.#timer = setInterval(() => {
      if (this.silence > patience) bark();
    }, patience / 5);
  }

  /** For how long nothing was heard (ms); a laptop's sleep counts. */
  get silence() {
    return Date.now() - this.#heard;
  }

  hear() {
    this.#heard = Date.now();
  }

  stop() {
    clearInterval(this.#timer);
  }
}

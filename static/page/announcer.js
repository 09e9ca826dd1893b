/**
 * What a screen reader is told: that an answer comes, and how it ended; not every token. Only what
 * happens while the page is open is worth a word. This module knows nothing of how a turn looks.
 */

import { setText } from "./dom.js";
import { isRunning } from "./turn.js";

const ENDINGS = {
  completed: "The answer is complete.",
  failed: "The answer failed.",
  cancelled: "The answer was stopped.",
  interrupted: "The answer was interrupted.",
  unsent: "The message was not sent.",
};

export class Announcer {
  #region;
  #running = new Set();

  /** @param {Element} region one with the role `status` */
  constructor(region) {
    this.#region = region;
  }

  update(turns) {
    for (const turn of turns) {
      const { status } = turn;
      // One that is asked for in another's place is told of once, before and after it began.
      const turnId = turn.again?.turnId ?? turn.turnId;
      if (isRunning(turn)) {
        if (!this.#running.has(turnId)) setText(this.#region, "Generating the answer…");
        this.#running.add(turnId);
      } else if (this.#running.delete(turnId)) {
        setText(this.#region, ENDINGS[status]);
      }
    }
  }
}

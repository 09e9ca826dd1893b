/**
 * What can be done with an answer: a row of quiet buttons under it. This module knows nothing of
 * how it is done.
 */

import { isContinuable } from "./again.js";
import { isBlank } from "./blank.js";
import { copyButton } from "./clipboard.js";
import { button, element, icon } from "./dom.js";
import { isRunning } from "./turn.js";
import { VersionSwitch } from "./version-switch.js";

export class Toolbar {
  element = element("div", { class: "toolbar" });
  versions;
  #turn;
  #copy;
  #ratings;
  #continue;
  #regenerate;

  /**
   * @param {{onAgain: (kind: string) => void, list: (turn: object) => Promise<object[]>,
   *   onVersion: (version?: object) => void}} handlers the last two are for `VersionSwitch`
   * @param {Element[]} ratings buttons that rate the answer
   */
  constructor({ onAgain, list, onVersion }, ratings) {
    this.versions = new VersionSwitch(list, onVersion);
    this.#copy = copyButton("Copy the answer as markdown", () => this.#turn.text);
    this.#copy.classList.add("copy");
    this.#ratings = ratings;
    this.#continue = again("Continue", "Go on where the answer stopped", "continue", onAgain);
    this.#continue.classList.add("next");
    this.#regenerate = again("Regenerate", "Answer the message anew", "regenerate", onAgain);
    this.element.append(this.versions.element, this.#continue, this.#copy);
    this.element.append(...ratings, this.#regenerate);
  }

  /** Show what suits a turn as it is `shown`: the last one, or an older version of one. */
  update(shown, { isLast, isOld }) {
    this.#turn = shown;
    const hasText = !isBlank(shown.text);
    const isIdle = isLast && !isOld && shown.status !== "unsent";
    this.#copy.hidden = !hasText;
    for (const rating of this.#ratings) rating.hidden = isOld || !hasText;
    this.#continue.hidden = !isIdle || !isContinuable(shown);
    this.#regenerate.hidden = !isIdle || !hasText;
    this.element.hidden = isRunning(shown) || !(hasText || this.versions.total > 1);
  }
}

function again(caption, title, kind, onAgain) {
  const attributes = { class: "quiet", title, "aria-label": caption };
  const content = [icon(kind), element("span", { class: "caption" }, caption)];
  return button(attributes, content, () => onAgain(kind));
}

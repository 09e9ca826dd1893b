/**
 * Looking through the versions of an answer: "2/3" between two arrows. Shown, not brought back.
 * This module knows nothing of how versions are read or of how they look.
 */

import { isBlank } from "./blank.js";
import { button, element, icon, setText } from "./dom.js";
import { isRunning } from "./turn.js";

/** How near to what is in view a turn must be for its versions to be asked for. */
const AHEAD = "300px 0px";

export class VersionSwitch {
  element;
  #back;
  #forth;
  #count = element("span", { class: "count", "aria-hidden": "true" });
  #said = element("span", { class: "visually-hidden", role: "status" });
  #list;
  #show;
  #turn;
  /** Those before the one in view, oldest first; null until they were read. */
  #older = null;
  #at = 0;
  #observer = new IntersectionObserver((seen) => seen.at(-1).isIntersecting && this.#read(), {
    rootMargin: AHEAD,
    scrollMargin: AHEAD,
  });

  /**
   * @param {(turn) => Promise<object[]>} list reads a turn's versions
   * @param {(version?: object) => void} show gets an older version, or nothing for the turn itself
   */
  constructor(list, show) {
    this.#list = list;
    this.#show = show;
    this.#back = this.#arrow("previous", "Previous version", -1);
    this.#forth = this.#arrow("next", "Next version", 1);
    this.element = element("div", { class: "versions", role: "group" });
    this.element.append(this.#back, this.#count, this.#forth, this.#said);
    this.element.hidden = true;
  }

  /** Be about a turn; its versions are read when `place`, where it stands, is nearly in view. */
  update(turn, place) {
    const old = this.#turn;
    const isOther = turn.turnId !== old?.turnId;
    this.#turn = turn;
    if (isOther) {
      this.#older = null;
      setText(this.#said, "");
    }
    if (isOther || isRunning(turn)) this.#at = this.total - 1;
    if (isOther || turn.status !== old.status) this.#look(place);
    this.#paint();
  }

  /** How many versions are known, the one in view among them. */
  get total() {
    return (this.#older?.length ?? 0) + 1;
  }

  close() {
    this.#observer.disconnect();
  }

  #look(place) {
    this.#observer.disconnect();
    if (this.#turn.replaces && !this.#older) this.#observer.observe(place);
  }

  async #read() {
    this.#observer.disconnect();
    const turn = this.#turn;
    try {
      const versions = await this.#list(turn);
      if (turn.turnId !== this.#turn.turnId) return;
      const here = versions.findIndex((version) => version.turn_id === turn.turnId);
      this.#older = versions.slice(0, Math.max(here, 0)).filter((version) => !isBlank(version.text));
      this.#at = this.#older.length;
    } catch {
      return; // Tried again with the turn's next change, as after a lost connection.
    }
    this.#paint();
    this.#show();
  }

  #arrow(name, label, step) {
    const attributes = { class: "quiet", title: label, "aria-label": label };
    return button(attributes, icon(name), () => this.#go(this.#at + step));
  }

  #go(at) {
    if (at < 0 || at >= this.total) return;
    this.#at = at;
    this.#paint();
    setText(this.#said, `Version ${at + 1} of ${this.total}`);
    this.#show(this.#older[at]);
  }

  #paint() {
    const { total } = this;
    this.element.hidden = total < 2 || isRunning(this.#turn);
    this.element.setAttribute("aria-label", `Version ${this.#at + 1} of ${total} of this answer`);
    setText(this.#count, `${this.#at + 1}/${total}`);
    // Not `disabled`, which would take the focus away.
    this.#back.setAttribute("aria-disabled", String(this.#at === 0));
    this.#forth.setAttribute("aria-disabled", String(this.#at === total - 1));
  }
}

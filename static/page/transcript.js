/**
 * The conversation's turns on the page: one view each, painted at most once per frame. This module
 * knows nothing of how a turn looks or of the server.
 */

import { element } from "./dom.js";
import { TurnView } from "./turn-view.js";
import { isRunning } from "./turn.js";

const SECOND = 1000;

export class Transcript {
  element = element("ol", { class: "turns", "aria-label": "Messages" });
  #actions;
  #views = new Map();
  #turns = [];
  #frame = 0;
  #clock = 0;

  /** @param {object} actions those of `TurnView` */
  constructor(actions) {
    this.#actions = actions;
  }

  /** Show these turns with the next frame: however many tokens come, the page is painted once. */
  update(turns) {
    this.#turns = turns;
    this.#frame ||= requestAnimationFrame(() => this.paint());
  }

  /** Show them now, for whoever has to measure the outcome. */
  paint() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const wanted = new Set(this.#turns.map((turn) => turn.turnId));
    for (const turn of this.#turns) this.#inherit(turn, wanted);
    this.#drop(wanted);
    let next = this.element.firstElementChild;
    for (const turn of this.#turns) {
      const view = this.#viewOf(turn);
      view.update(turn, turn === this.#turns.at(-1));
      if (view.element === next) next = next.nextElementSibling;
      else this.element.insertBefore(view.element, next);
    }
    this.element.setAttribute("aria-busy", String(this.#turns.some(isRunning)));
    this.#tickWhileWaiting();
  }

  #viewOf(turn) {
    let view = this.#views.get(turn.turnId);
    if (!view) {
      view = new TurnView(this.#actions);
      this.#views.set(turn.turnId, view);
    }
    return view;
  }

  /** A turn that replaces another stands in its view: nothing flickers, and the focus stays. */
  #inherit({ turnId, replaces }, wanted) {
    const view = this.#views.get(replaces);
    if (!view || this.#views.has(turnId) || wanted.has(replaces)) return;
    this.#views.delete(replaces);
    this.#views.set(turnId, view);
  }

  #drop(wanted) {
    for (const [turnId, view] of this.#views) {
      if (wanted.has(turnId)) continue;
      view.close();
      this.#views.delete(turnId);
    }
  }

  #tickWhileWaiting() {
    const waiting = [...this.#views.values()].filter((view) => view.isWaiting);
    clearTimeout(this.#clock);
    if (!waiting.length) return;
    this.#clock = setTimeout(() => {
      for (const view of waiting) view.tick(Date.now());
      this.#tickWhileWaiting();
    }, SECOND);
  }
}

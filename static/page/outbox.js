/**
 * Messages that the server has not confirmed. They outlive a reload of their tab, and carry their
 * turn ids, so that sending one again never asks twice. This module knows nothing of the server or
 * of how a turn looks.
 */

import { store, stored } from "./storage.js";

export class Outbox {
  #key;
  #bodies;

  /** @param {string} key names the conversation */
  constructor(key) {
    this.#key = `outbox:${key}`;
    this.#bodies = new Map(parsed(stored(this.#key, "sessionStorage")));
  }

  /** The ids of the turns that wait. */
  get turnIds() {
    return [...this.#bodies.keys()];
  }

  get(turnId) {
    return this.#bodies.get(turnId);
  }

  put(body) {
    this.#bodies.set(body.turnId, body);
    this.#keep();
  }

  drop(turnId) {
    if (this.#bodies.delete(turnId)) this.#keep();
  }

  #keep() {
    const entries = this.#bodies.size ? JSON.stringify([...this.#bodies]) : "";
    store(this.#key, entries, "sessionStorage");
  }
}

function parsed(text) {
  try {
    return JSON.parse(text ?? "[]");
  } catch {
    return [];
  }
}

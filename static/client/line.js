/**
 * One connection for all conversations of one user: which transport it has, who follows what over
 * it, and when it is dead. This module knows nothing of other tabs or of how long to wait before
 * the next try.
 */

import { ChatstreamError } from "./chatstream-error.js";
import { EventStream } from "./event-stream.js";
import { onPage } from "./on-page.js";
import { Socket } from "./socket.js";
import { Watchdog } from "./watchdog.js";

/** Networks that let no WebSocket through show it so often in a row. */
const BLOCKED = 2;
/**
 * Proxies take an address of 8 KB, and it has more in it than is counted here. That is fewer than
 * the 200 conversations which the server takes, too.
 */
const ADDRESS = 7_500;
/** As long as a cursor is. */
const CURSOR = "1764000000000-0000";

/**
 * Follows conversations of one user over one connection, which is open while one is followed: a
 * `Socket`; or an `EventStream`, where that is asked for, or where no WebSocket ever came through.
 * When that is opened anew, each is asked for from its place on, and notices nothing.
 */
export class Line {
  /** By conversation id: {id, ref, place, take, fail, isLive, source: what sends it events}. */
  followers = new Map();
  access;
  userId;
  #transport;
  #silence;
  #wire = null;
  #watchdog;
  #spare;
  #refs = 0;

  /** `silence`: how long the server may say nothing (ms). */
  constructor(access, userId, transport, silence) {
    this.access = access;
    this.userId = userId;
    this.#transport = transport;
    this.#silence = silence;
    // The network is another one: what was open may be dead without a word.
    onPage(() => this.#renew(), ["online"]);
  }

  /**
   * Pass on what comes after `place()`, until the connection ends, which is always an error.
   * `take` must move that place: it is asked again whenever a connection is opened.
   */
  follow(id, place, take, signal) {
    // A connection has one cursor for a conversation; who stands elsewhere needs another one.
    if (this.followers.has(id) || !this.#hasRoom(id)) {
      this.#spare ??= new Line(this.access, this.userId, this.#transport, this.#silence);
      return this.#spare.follow(id, place, take, signal);
    }
    return new Promise((_, fail) => {
      const follower = { id, ref: ++this.#refs, place, take, fail, isLive: false };
      this.followers.set(id, follower);
      const left = new ChatstreamError("The conversation was left.");
      signal.addEventListener("abort", () => this.#drop(follower, left));
      if (!this.#wire) return this.#open();
      this.revive();
      this.#wire.change();
    });
  }

  /** One that was silent for a while may be dead: who comes now is not to wait for it. */
  revive() {
    if (this.#watchdog?.silence > this.#silence / 2) this.#renew();
  }

  /** Called by the connection: pass an event on, to whom it concerns of those it is sent for. */
  take(event, source) {
    this.#watchdog.hear();
    const { type, conversation_id: id } = event;
    for (const follower of id === undefined ? this.followers.values() : [this.followers.get(id)]) {
      if (follower?.source !== source) continue;
      if (type === "error") {
        const { code, message, errors, retry_after: seconds } = event;
        const problem = { code, retryable: !errors, retryAfter: seconds && seconds * 1000 };
        this.#drop(follower, new ChatstreamError(message, problem));
      } else if (type !== "ready" || !follower.isLive || event.id !== follower.place()) {
        follower.isLive ||= type === "ready";
        follower.take(event);
      }
    }
  }

  /** Called by the connection when it has ended; all come back at the same moment. */
  lost(wire, error) {
    if (wire !== this.#wire) return;
    this.#close();
    error.dice ??= Math.random();
    const { followers } = this;
    this.followers = new Map();
    for (const { fail } of followers.values()) fail(error);
  }

  #hasRoom(id) {
    const conversation_id = [...this.followers.keys(), id];
    const query = { conversation_id, after: conversation_id.map(() => CURSOR) };
    return !this.#wire || this.access.url("events", query).href.length < ADDRESS;
  }

  #open() {
    const isBlocked = this.access.unopened >= BLOCKED;
    const Wire = this.#transport === "sse" || isBlocked ? EventStream : Socket;
    const wire = (this.#wire = new Wire(this));
    const silent = () => this.lost(wire, new ChatstreamError("The connection was silent."));
    this.#watchdog = new Watchdog(this.#silence, silent);
  }

  #close() {
    this.#watchdog.stop();
    this.#wire.close();
    this.#wire = this.#watchdog = null;
  }

  #renew() {
    if (!this.#wire) return;
    this.#close();
    this.#open();
  }

  #drop(follower, error) {
    follower.fail(error);
    if (this.followers.get(follower.id) !== follower) return;
    this.followers.delete(follower.id);
    if (this.followers.size) this.#wire.change();
    else this.#close();
  }
}

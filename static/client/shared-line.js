/**
 * Which tab leads, and what each tab does with what the leader tells. This module knows nothing of
 * transports.
 */

import { ChatstreamError } from "./chatstream-error.js";
import { Leader } from "./leader.js";
import { onPage } from "./on-page.js";
import { Watchdog } from "./watchdog.js";

/** A tab that the leader does not answer for so long follows by itself (ms). */
const ANSWER = 1_000;

/**
 * The line that all tabs of a browser share. One of them, which holds a Web Lock, follows for all
 * (`Leader`); what it gets goes over a BroadcastChannel. A tab takes an event only when it stands
 * exactly before it. Where it does not, since it joined with an older cursor or the leader is
 * silent, it follows alone, over its own line, until both are in step.
 */
export class SharedLine {
  #name;
  #line;
  #silence;
  #tab = crypto.getRandomValues(new Uint32Array(4)).join("-");
  /** The tab's name, while it holds the lock that tells the leader that it is there. */
  #attended;
  #count = 0;
  /**
   * As {id, conversationId, place, take, fail, at: where the leader is, alone, answer, isDropped:
   * whether the leader counts it no more}.
   */
  #followers = new Set();
  /** Who takes part: functions that wake them. */
  #members = new Set();
  #channel = null;
  #leader = null;
  #over = null;
  #watchdog;

  /**
   * @param {string} name the same in all tabs that may share
   * @param {import("./line.js").Line} line this tab's own
   * @param {number} silence how long that may say nothing (ms)
   */
  constructor(name, line, silence) {
    this.#name = name;
    this.#line = line;
    this.#silence = silence;
    // Who is frozen, or kept for the back button, cannot lead.
    onPage(() => this.#end(), ["pagehide", "freeze"]);
    onPage(() => this.#begin(), ["pageshow", "resume"]);
  }

  /** Take part; `wake` is called when the server is there again. Returns how to leave. */
  enter(wake) {
    this.#members.add(wake);
    this.#begin();
    return () => {
      this.#members.delete(wake);
      // Who goes on with another conversation at once keeps the lead.
      setTimeout(() => this.#members.size || this.#end());
    };
  }

  /** As a line's. */
  follow(conversationId, place, take, signal) {
    return new Promise((_, fail) => {
      const id = `${this.#tab} ${++this.#count};`;
      const follower = { id, conversationId, place, take, fail };
      this.#followers.add(follower);
      signal.addEventListener("abort", () => {
        this.#followers.delete(follower);
        clearTimeout(follower.answer);
        this.#together(follower);
        this.#post({ leave: id });
        fail(new ChatstreamError("The conversation was left."));
      });
      this.#join(follower);
    });
  }

  /** As a line's. */
  revive() {
    this.#line.revive();
    if (this.#watchdog?.silence > this.#silence / 2) this.#joinAll();
  }

  #begin() {
    if (this.#over || !this.#members.size) return;
    const { signal } = (this.#over = new AbortController());
    this.#channel = new BroadcastChannel(this.#name);
    this.#channel.onmessage = ({ data }) => this.#hear(data);
    this.#watchdog = new Watchdog(this.#silence * 1.5, () => this.#takeOver());
    this.#hold(`${this.#name} ${this.#tab}`, { signal }, signal, () => {
      this.#attended = this.#tab;
      this.#post({});
    });
    this.#compete({ signal }, signal);
  }

  #end() {
    if (!this.#over) return;
    this.#over.abort();
    this.#watchdog.stop();
    this.#leader?.close();
    this.#channel.close();
    this.#over = this.#channel = this.#leader = null;
    this.#attended = undefined;
  }

  /** Hold a lock until `signal`, once it is free; resolves when it is lost, to a thief too. */
  #hold(name, options, signal, begin) {
    const held = () => {
      if (signal.aborted) return;
      begin();
      return new Promise((resolve) => signal.addEventListener("abort", resolve));
    };
    return navigator.locks.request(name, options, held).catch(() => {});
  }

  /** Lead, once nobody else does; `options` may say not to wait for that. */
  async #compete(options, signal) {
    let leader;
    await this.#hold(this.#name, options, signal, () => {
      leader = this.#leader = new Leader(this.#name, this.#line);
    });
    leader?.close();
    if (!signal.aborted && options.signal) this.#compete(options, signal);
  }

  #takeOver() {
    this.#watchdog.hear();
    if (!this.#followers.size) return;
    for (const follower of this.#followers) this.#goAlone(follower);
    this.#compete({ steal: true }, this.#over.signal);
  }

  #post(message) {
    this.#channel?.postMessage({ tab: this.#attended, ...message });
  }

  #hear(message) {
    const { lead, conversationId, to, event } = message;
    if (!lead && conversationId === undefined) return;
    this.#watchdog.hear();
    if (lead) return this.#joinAll();
    for (const follower of this.#followers) {
      const isMeant = (to ?? follower.id) === follower.id;
      if (isMeant && conversationId === follower.conversationId) this.#take(follower, message);
    }
    if (event?.type === "ready") for (const wake of this.#members) wake();
  }

  #joinAll() {
    for (const follower of this.#followers) this.#join(follower);
  }

  /** Tell the leader, also a new one, where a follower is. */
  #join(follower) {
    const { id, conversationId, place } = follower;
    follower.at = null;
    follower.isDropped = false;
    clearTimeout(follower.answer);
    follower.answer = setTimeout(() => this.#goAlone(follower), ANSWER);
    this.#post({ join: { conversationId, after: place(), follower: id } });
  }

  #take(follower, { event, before, at, down }) {
    clearTimeout(follower.answer);
    follower.at = down ? null : at;
    const place = follower.place();
    if (down) {
      follower.isDropped = true;
      if (!follower.alone) follower.fail(new ChatstreamError(down.message, down));
    } else if (before === place || at === place) {
      // An event that it has already it passes over.
      this.#together(follower);
      if (event) follower.take(event);
      if (follower.isDropped) this.#join(follower);
    } else {
      this.#goAlone(follower);
    }
  }

  #goAlone(follower) {
    if (follower.alone) return;
    const { conversationId, place, take, fail } = follower;
    follower.at = null;
    const { signal } = (follower.alone = new AbortController());
    const pass = (event) => {
      take(event);
      if (!signal.aborted && place() === follower.at) this.#together(follower);
    };
    const end = (error) => signal.aborted || fail(error);
    this.#line.follow(conversationId, place, pass, signal).catch(end);
  }

  #together(follower) {
    follower.alone?.abort();
    follower.alone = null;
  }
}

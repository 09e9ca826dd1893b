import { ChatstreamError } from "./chatstream-error.js";
import { Leader, placeAfter } from "./leader.js";
import { Watchdog } from "./watchdog.js";

/** A tab that the leader does not answer for so long begins a stream of its own (ms). */
const ANSWER = 1_000;

/**
 * The transport that all tabs of a browser share. One of them, which holds a Web Lock, follows
 * for all (`Leader`); what it gets goes over a BroadcastChannel. A tab takes an event only when it
 * stands exactly before it. Where it does not, since it joined with an older cursor or
 * the leader is silent, it has a stream of its own until both are in step.
 */
export class SharedLine {
  /** Insecure origins have no Web Locks. */
  static get isPossible() {
    return Boolean(globalThis.navigator?.locks && globalThis.BroadcastChannel);
  }

  #name;
  #makeTransport;
  #silence;
  #tab = crypto.getRandomValues(new Uint32Array(4)).join("-");
  #count = 0;
  #followers = new Set();
  /** Who takes part, as {wake}. */
  #members = new Set();
  #channel = null;
  #leader = null;
  #over = null;
  #watchdog;

  /**
   * @param {string} name the same in all tabs that may share
   * @param {() => object} makeTransport
   * @param {number} silence how long a transport may say nothing (ms)
   */
  constructor(name, makeTransport, silence) {
    this.#name = name;
    this.#makeTransport = makeTransport;
    this.#silence = silence;
    if (!globalThis.document) return;
    // Who is frozen, or kept for the back button, cannot lead.
    addEventListener("pagehide", () => this.#end());
    document.addEventListener("freeze", () => this.#end());
    addEventListener("pageshow", () => this.#begin());
    document.addEventListener("resume", () => this.#begin());
  }

  /** Take part; `wake` is called when the server is there again. Returns how to leave. */
  enter(wake) {
    const member = { wake };
    this.#members.add(member);
    this.#begin();
    return () => {
      this.#members.delete(member);
      // Who goes on with another conversation at once keeps the lead.
      setTimeout(() => this.#members.size || this.#end());
    };
  }

  /** As every transport's. */
  follow(conversationId, after, take, signal) {
    return new Promise((_, fail) => {
      const id = `${this.#tab} ${++this.#count}`;
      const post = (message) => this.#channel?.postMessage({ tab: this.#tab, ...message });
      const follower = new Follower({ id, conversationId, after, take, fail, post }, () =>
        this.#makeTransport(),
      );
      this.#followers.add(follower);
      signal.addEventListener("abort", () => {
        this.#followers.delete(follower);
        follower.leave();
      });
      follower.join();
    });
  }

  #begin() {
    if (this.#over || !this.#members.size) return;
    const { signal } = (this.#over = new AbortController());
    this.#channel = new BroadcastChannel(this.#name);
    this.#channel.onmessage = ({ data }) => this.#hear(data);
    this.#watchdog = new Watchdog(this.#silence * 1.5, () => this.#takeOver());
    const held = () => new Promise((resolve) => signal.addEventListener("abort", resolve));
    navigator.locks.request(`${this.#name} ${this.#tab}`, { signal }, held).catch(() => {});
    this.#compete({ signal }, signal);
  }

  #end() {
    this.#watchdog?.stop();
    this.#leader?.close();
    this.#channel?.close();
    this.#channel = this.#leader = null;
    this.#over?.abort();
    this.#over = null;
  }

  /** Lead, once nobody else does; `options` may say not to wait for that. */
  async #compete(options, signal) {
    let leader;
    const lead = () => {
      if (signal.aborted) return;
      leader = this.#leader = new Leader(this.#name, this.#makeTransport(), this.#silence / 2);
      return new Promise((resolve) => signal.addEventListener("abort", resolve));
    };
    // It rejects when another tab, to which this one seemed dead, has taken the lock away.
    await navigator.locks.request(this.#name, options, lead).catch(() => {});
    leader?.close();
    if (!signal.aborted && options.signal) this.#compete(options, signal);
  }

  #takeOver() {
    this.#watchdog.hear();
    if (!this.#followers.size) return;
    for (const follower of this.#followers) follower.goAlone();
    this.#compete({ steal: true }, this.#over.signal);
  }

  #hear(message) {
    if (!("conversationId" in message || message.lead)) return;
    this.#watchdog.hear();
    if (message.lead) return this.#followers.forEach((follower) => follower.join());
    for (const follower of this.#followers) follower.hear(message);
    if (message.event?.type === "ready") for (const { wake } of this.#members) wake();
  }
}

/** One conversation that a tab follows: in step with the leader, or alone until it is. */
class Follower {
  #id;
  #conversationId;
  #last;
  #take;
  #fail;
  #post;
  #makeTransport;
  /** Where the leader is, as far as is known. */
  #at = null;
  #alone = null;
  #answer;

  constructor({ id, conversationId, after, take, fail, post }, makeTransport) {
    this.#id = id;
    this.#conversationId = conversationId;
    this.#last = after;
    this.#take = take;
    this.#fail = fail;
    this.#post = post;
    this.#makeTransport = makeTransport;
  }

  /** Tell the leader, also a new one, where this tab is. */
  join() {
    this.#at = null;
    clearTimeout(this.#answer);
    this.#answer = setTimeout(() => this.goAlone(), ANSWER);
    const conversationId = this.#conversationId;
    this.#post({ join: { conversationId, after: this.#last, follower: this.#id } });
  }

  leave() {
    clearTimeout(this.#answer);
    this.#together();
    this.#post({ leave: this.#conversationId, follower: this.#id });
    this.#fail(new ChatstreamError("The conversation was left."));
  }

  hear({ conversationId, to = this.#id, event, before, at, down }) {
    if (conversationId !== this.#conversationId || to !== this.#id) return;
    clearTimeout(this.#answer);
    this.#at = at;
    if (down) {
      this.#at = null;
      if (!this.#alone) this.#fail(new ChatstreamError(down.message, down));
    } else if (before === this.#last) {
      this.#together();
      if (event) this.#pass(event);
    } else if (at === this.#last) {
      this.#together();
    } else {
      this.goAlone();
    }
  }

  /** Follow over a transport of this tab's own, from its own place. */
  goAlone() {
    if (this.#alone) return;
    this.#at = null;
    const alone = (this.#alone = new AbortController());
    const take = (event) => {
      if (this.#alone !== alone) return;
      this.#pass(event);
      if (this.#last === this.#at) this.#together();
    };
    this.#makeTransport()
      .follow(this.#conversationId, this.#last, take, alone.signal)
      .catch((error) => {
        if (this.#alone === alone) this.#fail(error);
      });
  }

  #together() {
    this.#alone?.abort();
    this.#alone = null;
  }

  #pass(event) {
    this.#last = placeAfter(event, this.#last);
    this.#take(event);
  }
}

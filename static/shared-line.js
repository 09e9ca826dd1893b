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
 * silent, it follows over its own line until both are in step.
 */
export class SharedLine {
  #name;
  #line;
  #silence;
  #tab = crypto.getRandomValues(new Uint32Array(4)).join("-");
  /** The tab's name, while it holds the lock that tells the leader that it is there. */
  #attended;
  #count = 0;
  #followers = new Set();
  /** Who takes part: functions that wake them. */
  #members = new Set();
  #channel = null;
  #leader = null;
  #over = null;
  #watchdog;

  /**
   * @param {string} name the same in all tabs that may share
   * @param {Line} line this tab's own
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
      const follower = new Follower({
        id: `${this.#tab} ${++this.#count};`,
        conversationId,
        place,
        take,
        fail,
        post: (message) => this.#post(message),
        line: this.#line,
      });
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
    for (const follower of this.#followers) follower.goAlone();
    this.#compete({ steal: true }, this.#over.signal);
  }

  #post(message) {
    this.#channel?.postMessage({ tab: this.#attended, ...message });
  }

  #hear(message) {
    if (!("conversationId" in message || message.lead)) return;
    this.#watchdog.hear();
    for (const follower of this.#followers) {
      if (message.lead) follower.join();
      else follower.hear(message);
    }
    if (message.event?.type === "ready") for (const wake of this.#members) wake();
  }
}

/** One conversation that a tab follows: in step with the leader, or alone until it is. */
class Follower {
  #its;
  /** Where the leader is, as far as is known. */
  #at = null;
  #alone = null;
  #answer;

  /** `its`: id, conversationId, place, take, fail, and to the leader `post`, or the own `line`. */
  constructor(its) {
    this.#its = its;
  }

  /** Tell the leader, also a new one, where this tab is. */
  join() {
    const { conversationId, id: follower, place, post } = this.#its;
    this.#at = null;
    clearTimeout(this.#answer);
    this.#answer = setTimeout(() => this.goAlone(), ANSWER);
    post({ join: { conversationId, after: place(), follower } });
  }

  leave() {
    const { id: leave, fail, post } = this.#its;
    clearTimeout(this.#answer);
    this.#together();
    post({ leave });
    fail(new ChatstreamError("The conversation was left."));
  }

  hear({ conversationId, to, event, before, at, down }) {
    const its = this.#its;
    if (conversationId !== its.conversationId || (to ?? its.id) !== its.id) return;
    clearTimeout(this.#answer);
    this.#at = down ? null : at;
    const place = its.place();
    if (down) {
      if (!this.#alone) its.fail(new ChatstreamError(down.message, down));
    } else if (before === place || at === place) {
      // Where it had that event already, it passes over it.
      this.#together();
      if (event) its.take(event);
    } else {
      this.goAlone();
    }
  }

  /** Follow over this tab's own line, from its own place. */
  goAlone() {
    if (this.#alone) return;
    const { conversationId, place, take, fail, line } = this.#its;
    this.#at = null;
    const { signal } = (this.#alone = new AbortController());
    const pass = (event) => {
      take(event);
      if (!signal.aborted && place() === this.#at) this.#together();
    };
    line.follow(conversationId, place, pass, signal).catch((error) => signal.aborted || fail(error));
  }

  #together() {
    this.#alone?.abort();
    this.#alone = null;
  }
}

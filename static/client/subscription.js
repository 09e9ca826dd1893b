/**
 * One conversation, followed for good: its place in the log, when to load, to wait, to rest and to
 * come back. This module knows nothing of transports or of tabs: a line follows for it.
 */

import { ChatstreamError, jitter } from "./chatstream-error.js";
import { placeAfter } from "./leader.js";
import { onPage } from "./on-page.js";

/** A server that cannot be reached for so long counts as out of reach (ms). */
const OFFLINE = 10_000;
/** As long as a timer can wait (ms). */
const FOREVER = 2 ** 31 - 1;

/** One conversation, followed whatever happens. Made by `ChatstreamClient.subscribe`. */
export class Subscription {
  #line;
  #conversationId;
  #handlers;
  #last;
  /** Where the stream started. */
  #start;
  #stale;
  #state;
  #failures = 0;
  /** When all was well last. */
  #good;
  #stream = null;
  #wakeUp = null;
  #hurry = false;
  #resting = false;
  #over = new AbortController();
  #leave;

  constructor(line, conversationId, handlers) {
    this.#line = line;
    this.#conversationId = conversationId;
    this.#handlers = handlers;
    this.#last = handlers.after;
    this.#stale = Boolean(handlers.load);
    this.#leave = line.enter?.(() => this.#wakeUp?.());
    this.#say("connecting");
    this.#listen();
    this.#run();
  }

  /** Everything up to this id was passed on: where following would go on. */
  get lastId() {
    return this.#last;
  }

  close() {
    this.#over.abort();
    this.#interrupt();
    this.#leave?.();
  }

  /** Drop the stream until `wake`, as nobody looks. */
  rest() {
    this.#resting = true;
    this.#interrupt();
  }

  /** Begin again with `load`: what is shown cannot be trusted any more. */
  reload() {
    this.#stale = Boolean(this.#handlers.load);
    this.#interrupt();
  }

  /** Do not wait any longer: whoever looks at the page wants it live now. */
  wake() {
    this.#resting = false;
    this.#failures = 0;
    this.#interrupt();
  }

  #interrupt() {
    this.#hurry = true;
    this.#wakeUp?.();
    this.#stream?.abort();
  }

  async #run() {
    const { signal } = this.#over;
    while (!signal.aborted) {
      this.#hurry = false;
      try {
        if (this.#resting) await this.#pause(FOREVER);
        else if (this.#stale) await this.#load();
        else await this.#follow();
      } catch (error) {
        if (!signal.aborted && !this.#hurry) await this.#wait(error);
      }
    }
  }

  async #load() {
    this.#stale = false;
    try {
      this.#last = await this.#handlers.load();
    } catch (error) {
      this.#stale = true;
      throw error;
    }
  }

  /** Follow until the stream is cut or interrupted: it has no last event. */
  async #follow() {
    const stream = (this.#stream = new AbortController());
    const take = (event) => this.#take(event);
    try {
      await this.#line.follow(this.#conversationId, () => this.#last, take, stream.signal);
    } finally {
      this.#stream = null;
      stream.abort();
    }
  }

  #take(event) {
    const last = this.#last;
    this.#last = placeAfter(event, last, this.#start);
    if (event.type === "reset") {
      if (this.#handlers.load) this.reload();
    } else if (event.type === "caught_up") {
      this.#failures = 0;
    } else if (event.type === "ready") {
      this.#start = event.last_id;
      this.#say("live");
      this.#pass(event);
    } else if (event.id && this.#last !== last) {
      this.#pass(event);
    }
  }

  #pass(event) {
    try {
      this.#handlers.onEvent(event);
    } catch (error) {
      reportError(error);
    }
  }

  /** Say what is wrong, and wait before the next try. */
  #wait(error) {
    if (!this.#failures++) this.#good = Date.now();
    if (error instanceof ChatstreamError && !error.retryable) {
      this.#say("refused", error);
      return this.#pause(FOREVER);
    }
    const late = Date.now() - this.#good > OFFLINE;
    const out = late || globalThis.navigator?.onLine === false;
    this.#say(out ? "offline" : this.#state === "connecting" ? "connecting" : "reconnecting");
    return this.#pause((error.retryAfter ?? 0) + jitter(this.#failures, error.dice));
  }

  /** Let time pass, unless there is a reason not to. */
  #pause(ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wakeUp = () => {
        clearTimeout(timer);
        resolve();
      };
    }).finally(() => (this.#wakeUp = null));
  }

  /** Timers sleep with the laptop and in hidden tabs; these events tell that it is over. */
  #listen() {
    const { signal } = this.#over;
    const look = ({ type }) => {
      if (type !== "online" && document.visibilityState !== "visible") return;
      if (this.#wakeUp) this.wake();
      else this.#line.revive();
    };
    onPage(look, ["online", "visibilitychange"], signal);
    // An open stream would keep the page out of the back/forward cache.
    let hidden = false;
    const hide = () => {
      hidden ||= !this.#resting;
      this.rest();
    };
    const show = () => {
      if (hidden) this.wake();
      hidden = false;
    };
    onPage(hide, ["pagehide", "freeze"], signal);
    onPage(show, ["pageshow", "resume"], signal);
  }

  #say(state, error) {
    if (state === this.#state) return;
    this.#state = state;
    this.#handlers.onState?.(state, error);
  }
}

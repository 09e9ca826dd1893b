import { ChatstreamError, jitter } from "./chatstream-error.js";
import { placeAfter } from "./leader.js";

/** A server that cannot be reached for so long counts as out of reach (ms). */
const OFFLINE = 10_000;

/** One conversation, followed whatever happens. Made by `ChatstreamClient.subscribe`. */
export class Subscription {
  #transport;
  #conversationId;
  #heartbeat;
  #handlers;
  #last;
  #stale;
  #state;
  #failures = 0;
  /** When all was well last, and when anything was heard. */
  #good = Date.now();
  #heard = 0;
  #stream = null;
  #wakeUp = null;
  #hurry = false;
  #resting = false;
  #over = new AbortController();
  #leave;

  constructor(transport, conversationId, heartbeat, handlers) {
    this.#transport = transport;
    this.#conversationId = conversationId;
    this.#heartbeat = heartbeat;
    this.#handlers = handlers;
    this.#last = handlers.after;
    this.#stale = Boolean(handlers.load);
    this.#leave = transport.enter?.(() => this.#wakeUp?.());
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
    while (!this.#over.signal.aborted) {
      this.#hurry = false;
      let error;
      try {
        if (this.#resting) await this.#pause(Infinity);
        else if (this.#stale) await this.#reload();
        else await this.#follow();
        continue;
      } catch (caught) {
        error = caught;
      }
      if (this.#over.signal.aborted) return;
      if (this.#hurry) continue;
      if (!this.#failures++) this.#good = Date.now();
      if (error instanceof ChatstreamError && !error.retryable) {
        this.#say("refused", error);
        await this.#pause(Infinity);
        continue;
      }
      const late = Date.now() - this.#good > OFFLINE;
      const out = late || globalThis.navigator?.onLine === false;
      this.#say(out ? "offline" : this.#state === "connecting" ? "connecting" : "reconnecting");
      await this.#pause((error.retryAfter ?? 0) + jitter(this.#failures, error.dice));
    }
  }

  async #reload() {
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
    const take = (event) => {
      if (!stream.signal.aborted) this.#take(event);
    };
    this.#heard = Date.now();
    try {
      await this.#transport.follow(this.#conversationId, this.#last, take, stream.signal);
    } finally {
      this.#stream = null;
      stream.abort();
    }
  }

  #take(event) {
    const last = this.#last;
    this.#heard = Date.now();
    this.#last = placeAfter(event, last);
    switch (event.type) {
      case "ready":
        this.#say("live");
        this.#pass(event);
        return;
      case "reset":
        if (this.#handlers.load) this.reload();
        return;
      case "caught_up":
        this.#failures = 0;
        return;
    }
    if (event.id && this.#last !== last) this.#pass(event);
  }

  #pass(event) {
    try {
      this.#handlers.onEvent(event);
    } catch (error) {
      reportError(error);
    }
  }

  /** Wait, unless there is a reason not to. */
  #pause(ms) {
    return new Promise((resolve) => {
      const timer = ms === Infinity ? undefined : setTimeout(resolve, ms);
      this.#wakeUp = () => {
        clearTimeout(timer);
        resolve();
      };
    }).finally(() => (this.#wakeUp = null));
  }

  /** Timers sleep with the laptop and in hidden tabs; these events tell that it is over. */
  #listen() {
    const page = globalThis.document;
    if (!page) return;
    const options = { signal: this.#over.signal };
    let hidden = false;
    const hide = () => {
      hidden ||= !this.#resting;
      this.rest();
    };
    const show = () => {
      if (hidden) this.wake();
      hidden = false;
    };
    addEventListener("online", () => this.wake(), options);
    page.addEventListener(
      "visibilitychange",
      () => {
        if (page.visibilityState !== "visible") return;
        const silent = Date.now() - this.#heard > this.#heartbeat * 1.2;
        if (this.#wakeUp || silent) this.wake();
      },
      options,
    );
    // An open stream would keep the page out of the back/forward cache.
    addEventListener("pagehide", hide, options);
    addEventListener("pageshow", show, options);
    page.addEventListener("freeze", hide, options);
    page.addEventListener("resume", show, options);
  }

  #say(state, error) {
    if (state === this.#state) return;
    this.#state = state;
    this.#handlers.onState?.(state, error);
  }
}

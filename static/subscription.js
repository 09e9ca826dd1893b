import { ChatstreamError, jitter, problem, reached } from "./chatstream-error.js";
import { EventStreamParser } from "./event-stream-parser.js";

/** A connection that was silent for so many heartbeats is dead, whatever TCP says. */
const SILENT_HEARTBEATS = 2.5;
/** After so many failures in a row the server counts as out of reach. */
const OFFLINE_FAILURES = 4;

/** One live stream, kept alive. Made by `ChatstreamClient.subscribe`. */
export class Subscription {
  #open;
  #silence;
  #heartbeat;
  #handlers;
  #last;
  #stale;
  #state;
  #failures = 0;
  #retry = 0;
  #heard = 0;
  #stream = null;
  #wakeUp = null;
  #hurry = false;
  #resting = false;
  #over = new AbortController();

  constructor(open, heartbeat, handlers) {
    this.#open = open;
    this.#heartbeat = heartbeat;
    this.#silence = heartbeat * SILENT_HEARTBEATS;
    this.#handlers = handlers;
    this.#last = handlers.after;
    this.#stale = Boolean(handlers.load);
    this.#say("connecting");
    this.#listen();
    this.#run();
  }

  /** The last id that was passed on: where following would go on. */
  get lastId() {
    return this.#last;
  }

  close() {
    this.#over.abort();
    this.#interrupt();
  }

  /** Drop the stream until `wake`, as nobody looks: browsers allow six streams to all tabs. */
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
      this.#failures++;
      if (error instanceof ChatstreamError && !error.retryable) {
        this.#say("refused", error);
        await this.#pause(Infinity);
        continue;
      }
      const out = globalThis.navigator?.onLine === false || this.#failures >= OFFLINE_FAILURES;
      this.#say(out ? "offline" : this.#state === "connecting" ? "connecting" : "reconnecting");
      await this.#pause((error.retryAfter ?? this.#retry) + jitter(this.#failures));
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

  /** Read one stream to its end, which is always an error or a `reset`: it has no last event. */
  async #follow() {
    const stream = new AbortController();
    this.#stream = stream;
    this.#heard = Date.now();
    const watch = setInterval(() => this.#check(), this.#heartbeat / 2);
    try {
      const response = await reached(this.#open(this.#last, stream.signal));
      if (!response.ok) throw await problem(response);
      if (!response.headers.get("Content-Type")?.startsWith("text/event-stream")) {
        throw new ChatstreamError("something in between answered in the server's place");
      }
      const parser = new EventStreamParser();
      const text = new TextDecoder();
      const reader = response.body.getReader();
      while (!this.#stale) {
        const { done, value } = await reached(reader.read());
        if (done) throw new ChatstreamError("the stream was cut");
        this.#heard = Date.now();
        for (const data of parser.push(text.decode(value, { stream: true }))) {
          this.#take(JSON.parse(data));
          if (this.#stale) break;
        }
        this.#retry = parser.retry ?? this.#retry;
      }
    } finally {
      clearInterval(watch);
      this.#stream = null;
      stream.abort();
    }
  }

  #take(event) {
    switch (event.type) {
      case "ready":
        this.#last = event.id;
        this.#say("live");
        this.#pass(event);
        return;
      case "reset":
        if (this.#handlers.load) this.#stale = true;
        return;
      case "caught_up":
        this.#failures = 0;
        return;
      case "heartbeat":
        return;
    }
    if (!event.id || (this.#last !== undefined && event.id <= this.#last)) return;
    this.#last = event.id;
    this.#pass(event);
  }

  #pass(event) {
    try {
      this.#handlers.onEvent(event);
    } catch (error) {
      reportError(error);
    }
  }

  #check() {
    if (Date.now() - this.#heard > this.#silence) this.#stream?.abort();
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
    addEventListener("pagehide", () => this.rest(), options);
    addEventListener(
      "pageshow",
      () => {
        if (this.#resting) this.wake();
      },
      options,
    );
  }

  #say(state, error) {
    if (state === this.#state) return;
    this.#state = state;
    this.#handlers.onState?.(state, error);
  }
}

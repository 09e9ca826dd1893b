/**
 * chatstream-client: one conversation of a chatstream server, from any page. No dependencies.
 *
 *     import { ChatstreamClient } from "https://chat.example/static/chatstream-client.js";
 *
 *     const chat = new ChatstreamClient({ userId: "ada", conversationId: "trip" });
 *     const subscription = chat.subscribe({
 *       load: async () => show(await chat.history({ limit: 50 })),  // returns its `cursor`
 *       onEvent: (event) => fold(event),
 *       onState: (state) => paint(state),
 *     });
 *     await chat.send({ message: "Where to?" });
 *
 * What it promises: `onEvent` gets every event of the conversation once, in order, whatever
 * happens to the connection, the laptop or the server in between. It keeps one live stream, comes
 * back with the last id that it has, and passes nothing on twice. It reads the stream with
 * `fetch`, not with `EventSource`, because one 502 or 503 of a proxy during a restart ends an
 * EventSource for good.
 */

/** Seconds between the server's heartbeats, unless it was set up otherwise. */
const HEARTBEAT = 15;
/** A connection that was silent for so many heartbeats is dead, whatever TCP says. */
const SILENT_HEARTBEATS = 2.5;
/** Reconnecting: the bound of the random delay doubles from the first to the last, in ms. */
const FIRST_DELAY = 500;
const LAST_DELAY = 30_000;
/** After so many failures in a row the server counts as out of reach. */
const OFFLINE_FAILURES = 4;
/** Calls that may be repeated safely are tried so often, and each may take so long (ms). */
const ATTEMPTS = 4;
const CALL_TIMEOUT = 30_000;
/** Statuses that say "not now" rather than "no". */
const TRANSIENT = new Set([408, 425, 429, 500, 502, 503, 504]);

/** A call that did not succeed. `status` is 0 where no answer came at all. */
export class ChatstreamError extends Error {
  constructor(message, { status = 0, code = "network", retryable = true, retryAfter, turnId } = {}) {
    super(message);
    this.name = "ChatstreamError";
    this.status = status;
    this.code = code;
    /** Whether the same call may succeed later. */
    this.retryable = retryable;
    /** What the server asked to wait, in ms. */
    this.retryAfter = retryAfter;
    /** The turn that did start, where the problem is about one. */
    this.turnId = turnId;
  }
}

/**
 * Make a turn id: a UUIDv7, so that ids sort by time. `crypto.randomUUID` is not used, since
 * browsers have it on secure origins only.
 */
export function newTurnId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  let time = Date.now();
  for (let index = 5; index >= 0; index--) {
    bytes[index] = time % 256;
    time = Math.floor(time / 256);
  }
  bytes[6] = (bytes[6] & 0x0f) | 0x70;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

export class ChatstreamClient {
  #base;
  #address;
  #heartbeat;

  /**
   * @param {object} [options]
   * @param {string|URL} [options.base] the server's root; by default where this module came from
   * @param {string} [options.userId]
   * @param {string} [options.conversationId]
   * @param {number} [options.heartbeat] the server's `CHATSTREAM_HEARTBEAT`, in seconds
   */
  constructor({
    base = new URL("../", import.meta.url),
    userId = "default",
    conversationId = "default",
    heartbeat = HEARTBEAT,
  } = {}) {
    this.#base = new URL(base, globalThis.document?.baseURI);
    this.#address = { user_id: userId, conversation_id: conversationId };
    this.#heartbeat = heartbeat;
  }

  /**
   * Start a turn; resolves once it is durable. The reply comes as events. Repeated by itself
   * after a lost connection: the same `turnId` starts one turn only.
   *
   * @param {object} turn `message`, and optionally `turnId`, `replaces`, `provider`, `model`,
   *   `system`, `temperature`, `max_tokens`
   */
  send({ turnId = newTurnId(), ...body }) {
    return this.#post("turns", { ...body, turn_id: turnId }, ATTEMPTS);
  }

  /** Stop a turn; one that has ended is left as it is. Resolves with the turn. */
  cancel(turnId) {
    return this.#post(`turns/${encodeURIComponent(turnId)}/cancel`, {}, ATTEMPTS);
  }

  /** Erase the conversation's messages for good. */
  clear() {
    return this.#post("history/clear", {}, ATTEMPTS);
  }

  /** Rate a turn from 1 to 5; a later rating of the same turn stands. */
  feedback({ turnId, rating, comments }) {
    return this.#post("feedback", { turn_id: turnId, rating, comments }, ATTEMPTS);
  }

  /** Read the newest messages, or with an earlier page's `before` the ones that precede it. */
  history({ limit, before } = {}) {
    return this.#call("GET", this.#url("history", { ...this.#address, limit, before }));
  }

  /** Say who can answer. */
  providers() {
    return this.#call("GET", this.#url("providers"));
  }

  /**
   * Follow the conversation until `close()` is called on what this returns.
   *
   * @param {object} handlers
   * @param {() => Promise<string|undefined>} [handlers.load] called at first and after each
   *   `reset`: drop what is shown, show the history, return its `cursor`. Tried again when it
   *   fails. Without it, following begins at `after`.
   * @param {string} [handlers.after] an event id, or "0" for the beginning; by default the server
   *   begins with the oldest running turn, else with what is new
   * @param {(event: object) => void} handlers.onEvent each event once, in order
   * @param {(state: "connecting"|"live"|"reconnecting"|"offline"|"refused",
   *   error?: ChatstreamError) => void} [handlers.onState]
   * @returns {Subscription}
   */
  subscribe(handlers) {
    const open = (after, signal) =>
      fetch(this.#url("events", { ...this.#address, after }), {
        headers: { Accept: "text/event-stream" },
        cache: "no-store",
        signal,
      });
    return new Subscription(open, this.#heartbeat * 1000, handlers);
  }

  #url(path, query = {}) {
    const url = new URL(path, this.#base);
    for (const [name, value] of Object.entries(query)) {
      if (value !== undefined) url.searchParams.set(name, value);
    }
    return url;
  }

  #post(path, body, attempts) {
    return this.#call("POST", this.#url(path), { ...this.#address, ...body }, attempts);
  }

  async #call(method, url, body, attempts = 1) {
    const request = { method, headers: { Accept: "application/json" } };
    if (body) {
      request.headers["Content-Type"] = "application/json";
      request.body = JSON.stringify(body);
    }
    for (let attempt = 1; ; attempt++) {
      try {
        const signal = AbortSignal.timeout(CALL_TIMEOUT);
        const response = await reached(fetch(url, { ...request, signal }));
        if (!response.ok) throw await problem(response);
        return await reached(response.json());
      } catch (error) {
        if (attempt === attempts || !error.retryable) throw error;
        const delay = Math.min(LAST_DELAY, error.retryAfter ?? jitter(attempt));
        await new Promise((resolve) => setTimeout(resolve, delay));
      }
    }
  }
}

/** One live stream, kept alive. Made by `ChatstreamClient.subscribe`. */
class Subscription {
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
  #hidden = false;
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

  /** Do not wait any longer: whoever looks at the page wants it live now. */
  wake() {
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
        if (this.#hidden) await this.#pause(Infinity);
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
    const cursor = await this.#handlers.load();
    this.#last = cursor;
    this.#stale = false;
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
    addEventListener(
      "pagehide",
      () => {
        this.#hidden = true;
        this.#interrupt();
      },
      options,
    );
    addEventListener(
      "pageshow",
      () => {
        if (!this.#hidden) return;
        this.#hidden = false;
        this.wake();
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

/**
 * Parse `text/event-stream` as it comes, cut at any byte. Lines end with CRLF, LF or CR; an event
 * without its blank line never happened. The events' ids stand in their JSON too, so only the
 * data is kept.
 */
export class EventStreamParser {
  /** The last `retry:` in ms, if any. */
  retry;
  #line = "";
  #data = [];
  #afterReturn = false;

  /** Take the next piece of text; return the data of each event that it completes. */
  push(text) {
    if (this.#afterReturn && text.startsWith("\n")) text = text.slice(1);
    else if (text === "") return [];
    this.#afterReturn = text.endsWith("\r");
    const lines = (this.#line + text).split(/\r\n|\r|\n/);
    this.#line = lines.pop();
    const complete = [];
    for (const line of lines) {
      if (line !== "") {
        this.#field(line);
      } else if (this.#data.length) {
        complete.push(this.#data.join("\n"));
        this.#data = [];
      }
    }
    return complete;
  }

  #field(line) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") this.#data.push(value);
    else if (name === "retry" && /^[0-9]+$/.test(value)) this.retry = Number(value);
  }
}

/** Full jitter: many clients that lost one server do not come back as one. */
function jitter(failures) {
  return Math.random() * Math.min(LAST_DELAY, FIRST_DELAY * 2 ** Math.min(failures - 1, 10));
}

/** Turn what `fetch` throws when nothing answers into this module's error. */
async function reached(promise) {
  try {
    return await promise;
  } catch (error) {
    throw new ChatstreamError("The server cannot be reached.", { cause: error });
  }
}

async function problem(response) {
  const body = await response.json().catch(() => ({}));
  const seconds = Number(response.headers.get("Retry-After") || NaN);
  return new ChatstreamError(body.detail ?? `The server answered ${response.status}.`, {
    status: response.status,
    code: body.code ?? "http",
    retryable:
      TRANSIENT.has(response.status) && response.headers.get("x-should-retry") !== "false",
    retryAfter: Number.isFinite(seconds) ? seconds * 1000 : undefined,
    turnId: body.turn_id,
  });
}

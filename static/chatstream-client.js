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
 * Needs its neighbours `subscription.js`, `event-stream-parser.js` and `chatstream-error.js`.
 *
 * What it promises: `onEvent` gets every event of the conversation once, in order, whatever
 * happens to the connection, the laptop or the server in between. It keeps one live stream, comes
 * back with the last id that it has, and passes nothing on twice. It reads the stream with
 * `fetch`, not with `EventSource`, because one 502 or 503 of a proxy during a restart ends an
 * EventSource for good.
 */

import { jitter, problem, reached } from "./chatstream-error.js";
import { Subscription } from "./subscription.js";

export { ChatstreamError } from "./chatstream-error.js";
export { EventStreamParser } from "./event-stream-parser.js";

/** Seconds between the server's heartbeats, unless it was set up otherwise. */
const HEARTBEAT = 15;
/** Calls that may be repeated safely are tried so often, and each may take so long (ms). */
const ATTEMPTS = 4;
const CALL_TIMEOUT = 30_000;
/** Whoever waits in front of a page is told of a longer wait, rather than kept waiting (ms). */
const PATIENCE = 5_000;

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

/** Where a turn is found. */
function path(turnId) {
  return `turns/${encodeURIComponent(turnId)}`;
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
    return this.#post(`${path(turnId)}/cancel`, {}, ATTEMPTS);
  }

  /** Answer the same message anew: a new turn that replaces this one, which must have ended. */
  regenerate(turnId, { newId = newTurnId() } = {}) {
    return this.#post(`${path(turnId)}/regenerate`, { turn_id: newId }, ATTEMPTS);
  }

  /** Go on where an ended turn's reply stopped: a new turn that replaces it and has all the text. */
  continue(turnId, { newId = newTurnId() } = {}) {
    return this.#post(`${path(turnId)}/continue`, { turn_id: newId }, ATTEMPTS);
  }

  /** List the turns that this one replaced, and the ones that replaced it. */
  versions(turnId) {
    return this.#call("GET", this.#url(`${path(turnId)}/versions`, this.#address));
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

  /** Read a turn as it is now: its status, its text so far and, if it failed, its error. */
  turn(turnId) {
    return this.#call("GET", this.#url(path(turnId), this.#address));
  }

  /** Say who can answer. */
  providers() {
    return this.#call("GET", this.#url("providers"));
  }

  /** List the user's conversations, the newest first; `before` as in `history`. */
  conversations({ limit, before } = {}) {
    const { user_id } = this.#address;
    return this.#call("GET", this.#url("conversations", { user_id, limit, before }));
  }

  /** Give a conversation another title; 404 where it has no events. */
  rename(title, conversationId = this.#address.conversation_id) {
    return this.#call("PATCH", this.#conversation(conversationId), { title }, ATTEMPTS);
  }

  /** Erase a conversation, its title included. One that is gone already is as good as erased. */
  async erase(conversationId = this.#address.conversation_id) {
    try {
      await this.#call("DELETE", this.#conversation(conversationId), undefined, ATTEMPTS);
    } catch (error) {
      if (error.status !== 404) throw error;
    }
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
   * @param {(event: object) => void} handlers.onEvent each event once, in order; and `ready`
   *   whenever a stream opens
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

  #url(where, query = {}) {
    const url = new URL(where, this.#base);
    for (const [name, value] of Object.entries(query)) {
      if (value !== undefined) url.searchParams.set(name, value);
    }
    return url;
  }

  #conversation(conversationId) {
    return this.#url("conversations", { ...this.#address, conversation_id: conversationId });
  }

  #post(where, body, attempts) {
    return this.#call("POST", this.#url(where), { ...this.#address, ...body }, attempts);
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
        if (attempt === attempts || !error.retryable || error.retryAfter > PATIENCE) throw error;
        const delay = error.retryAfter ?? jitter(attempt);
        await new Promise((resolve) => setTimeout(resolve, delay));
      }
    }
  }
}

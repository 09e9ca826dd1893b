/**
 * chatstream-client: one conversation of a chatstream server, from any page. No dependencies.
 *
 *     import { ChatstreamClient } from "https://chat.example/static/client/chatstream-client.js";
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
 * happens to the connection, the laptop, the other tabs or the server in between: it comes back
 * with the last id that it has, and passes nothing on twice. It notices a dead connection by its
 * missed heartbeats, backs off with jitter, and outlives what ends an EventSource for good: a 502
 * or 503 during a restart, a 401 that `refresh` mends, a phone's sleep.
 *
 * All tabs that follow conversations of one user have one connection together, a WebSocket or an
 * SSE answer, in the tab that holds a Web Lock; when that one closes, crashes, freezes or hangs,
 * another takes over. A tab that joins in the middle has a connection of its own until it has
 * caught up; so have conversations beyond those (about 90) that fit the address of one SSE answer.
 * Without Web Locks or BroadcastChannel (insecure origins) each client has a connection of its
 * own. Calls such as `send` are requests of their own on every transport.
 *
 * What it does not promise: anything where the server itself does not (`protocol.md`, section 2), and
 * that text arrives in the pieces that the provider sent.
 *
 * The map, from the top. A row imports rows below it and its own, without circles; `client/` knows
 * nothing of `page/` (`tests/test_static_layers.py`):
 *
 *     chatstream-client     the entry: calls, and `subscribe`
 *     subscription          one conversation, followed for good
 *     shared-line leader    one connection for all tabs of a browser
 *     line                  one connection for all conversations of a user
 *     socket event-stream   the transports
 *     access                the calls
 *     event-stream-parser   the framing of SSE
 *     chatstream-error      what can go wrong
 *     watchdog on-page      silence; what happens to the page
 *
 * Its twelve modules, of which this is the first, are 5.3 KB when bundled and minified (esbuild)
 * and sent with Brotli, 6.0 with gzip, and 19 KB gzipped one by one as they lie here.
 */

import { Access } from "./access.js";
import { Line } from "./line.js";
import { SharedLine } from "./shared-line.js";
import { Subscription } from "./subscription.js";

export { ChatstreamError } from "./chatstream-error.js";
export { EventStreamParser } from "./event-stream-parser.js";

/** Seconds between the server's heartbeats, unless it was set up otherwise. */
const HEARTBEAT = 15;
/** A line that was silent for so many heartbeats is dead. */
const SILENT_HEARTBEATS = 2.5;

/**
 * Make a turn id: a UUIDv7, so that ids sort by time. `crypto.randomUUID` is not used, since
 * browsers have it on secure origins only.
 */
export function newTurnId() {
  const random = crypto.getRandomValues(new Uint8Array(10));
  random[0] = (random[0] & 0x0f) | 0x70;
  random[2] = (random[2] & 0x3f) | 0x80;
  const time = Date.now().toString(16).padStart(12, "0");
  const hex = Array.from(random, (byte) => byte.toString(16).padStart(2, "0"));
  return (time + hex.join("")).replace(/(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

/** Where a turn is found. */
function path(turnId) {
  return `turns/${encodeURIComponent(turnId)}`;
}

/**
 * @typedef {object} Options
 * @property {string|URL} [base] the server's root; by default where this module came from
 * @property {string} [userId]
 * @property {string} [conversationId]
 * @property {"websocket"|"sse"} [transport] how events come; where no WebSocket comes through,
 *   over SSE in any case
 * @property {boolean} [share] whether all tabs use one connection
 * @property {object|(() => object|Promise<object>)} [headers] sent with every call, such as
 *   `Authorization`. A WebSocket cannot send them: `POST /tickets` with them gives it a ticket
 * @property {() => Promise<void>} [refresh] signs the user in again. Called after a 401 (a
 *   socket's 4401), once for calls that fail together; what was refused is then tried once more
 * @property {number} [heartbeat] the server's `CHATSTREAM_HEARTBEAT`, in seconds
 */

/**
 * Build what the clients of one user share: the calls' way, and the events'.
 *
 * @param {Options} options
 */
function connect({
  base = new URL("../../", import.meta.url),
  userId = "default",
  transport = "websocket",
  share = true,
  heartbeat = HEARTBEAT,
  ...signing
}) {
  const access = new Access({ base, ...signing });
  const silence = heartbeat * SILENT_HEARTBEATS * 1000;
  const line = new Line(access, userId, transport, silence);
  // Insecure origins have no Web Locks.
  const isShared = share && globalThis.navigator?.locks && globalThis.BroadcastChannel;
  const name = `chatstream ${transport} ${userId} ${access.url("")}`;
  return { access, line: isShared ? new SharedLine(name, line, silence) : line };
}

export class ChatstreamClient {
  #connection;
  #address;

  /** @param {Options} [options] */
  constructor(options = {}, connection = connect(options)) {
    const { userId = "default", conversationId = "default" } = options;
    this.#connection = connection;
    this.#address = { user_id: userId, conversation_id: conversationId };
  }

  /** Another conversation of the user, over the same connection. */
  at(conversationId) {
    const { user_id: userId } = this.#address;
    return new ChatstreamClient({ userId, conversationId }, this.#connection);
  }

  /**
   * Start a turn; resolves once it is durable. The reply comes as events. Repeated by itself
   * after a lost connection: the same `turnId` starts one turn only.
   *
   * @param {{message: string, turnId?: string, replaces?: string, provider?: string,
   *   model?: string, system?: string, temperature?: number, max_tokens?: number}} turn
   */
  send({ turnId = newTurnId(), ...body }) {
    return this.#post("turns", { ...body, turn_id: turnId });
  }

  /** Stop a turn; one that has ended is left as it is. Resolves with the turn. */
  cancel(turnId) {
    return this.#post(`${path(turnId)}/cancel`, {});
  }

  /** Answer the same message anew: a new turn that replaces this one, which must have ended. */
  regenerate(turnId, { newId = newTurnId() } = {}) {
    return this.#post(`${path(turnId)}/regenerate`, { turn_id: newId });
  }

  /** Go on where an ended turn's reply stopped: a new turn that replaces it and has all the text. */
  continue(turnId, { newId = newTurnId() } = {}) {
    return this.#post(`${path(turnId)}/continue`, { turn_id: newId });
  }

  /** List the turns that this one replaced, and the ones that replaced it. */
  versions(turnId) {
    return this.#get(`${path(turnId)}/versions`, this.#address);
  }

  /** Erase the conversation's messages for good. */
  clear() {
    return this.#post("history/clear", {});
  }

  /** Rate a turn from 1 to 5; a later rating of the same turn stands. */
  feedback({ turnId, rating, comments }) {
    return this.#post("feedback", { turn_id: turnId, rating, comments });
  }

  /**
   * Read the newest messages, or with an earlier page's `before` the ones that precede it.
   *
   * @param {{limit?: number, before?: string}} [page]
   */
  history({ limit, before } = {}) {
    return this.#get("history", { ...this.#address, limit, before });
  }

  /** Read a turn as it is now: its status, its text so far and, if it failed, its error. */
  turn(turnId) {
    return this.#get(path(turnId), this.#address);
  }

  /** Say who can answer. */
  providers() {
    return this.#get("providers");
  }

  /**
   * List the user's conversations, the newest first; `before` as in `history`.
   *
   * @param {{limit?: number, before?: string}} [page]
   */
  conversations({ limit, before } = {}) {
    const { user_id } = this.#address;
    return this.#get("conversations", { user_id, limit, before });
  }

  /** Give a conversation another title; 404 where it has no events. */
  rename(title, conversationId = this.#address.conversation_id) {
    return this.#change("PATCH", conversationId, { title });
  }

  /** Erase a conversation, its title included. One that is gone already is as good as erased. */
  async erase(conversationId = this.#address.conversation_id) {
    try {
      await this.#change("DELETE", conversationId);
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
   *   error?: import("./chatstream-error.js").ChatstreamError) => void} [handlers.onState]
   * @returns {Subscription}
   */
  subscribe(handlers) {
    return new Subscription(this.#connection.line, this.#address.conversation_id, handlers);
  }

  #get(where, query) {
    return this.#connection.access.call("GET", where, { query });
  }

  #post(where, body) {
    return this.#connection.access.call("POST", where, { body: { ...this.#address, ...body } });
  }

  #change(method, conversation_id, body) {
    const query = { ...this.#address, conversation_id };
    return this.#connection.access.call(method, "conversations", { query, body });
  }
}

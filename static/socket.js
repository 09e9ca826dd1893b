import { ChatstreamError, reached } from "./chatstream-error.js";
import { EventStream } from "./event-stream.js";
import { Watchdog } from "./watchdog.js";

/** Close codes (CONTRACT section 4): a server that is overloaded is left alone for so long (ms). */
const OVERLOADED = 1013;
const LATER = 5_000;
const SIGNED_OUT = 4401;
/** Coming back does not mend these: wrong data, a policy, a frame that is too large. */
const FINAL = new Set([1003, 1007, 1008, 1009]);

/** Networks that let no WebSocket through show it so often in a row. */
const BLOCKED = 2;

/**
 * The transport over WebSocket: one for all conversations, open while one is followed. Where none
 * has ever come through, since something in between knows no WebSockets, events come over SSE.
 */
export class Socket {
  #access;
  #userId;
  #silence;
  #fallback;
  #socket = null;
  #watchdog;
  /** By conversation id: who follows it, {take, fail, after, ref, begun}. */
  #followers = new Map();
  #refs = 0;

  /** `silence`: how long the server may say nothing (ms). */
  constructor(access, userId, silence) {
    this.#access = access;
    this.#userId = userId;
    this.#silence = silence;
    this.#fallback = new EventStream(access, userId, silence);
  }

  /** Pass on what comes after `after`, until the socket closes, which is always an error. */
  follow(conversationId, after, take, signal) {
    const isBlocked = this.#access.unopened >= BLOCKED;
    if (isBlocked) return this.#fallback.follow(conversationId, after, take, signal);
    // A socket has one cursor for a conversation; who stands elsewhere needs another one.
    if (this.#followers.has(conversationId)) {
      const other = new Socket(this.#access, this.#userId, this.#silence);
      return other.follow(conversationId, after, take, signal);
    }
    return new Promise((_, fail) => {
      const follower = { take, fail, after, ref: ++this.#refs, begun: false };
      // One that was silent for a while may be dead: who comes now is not to wait for it.
      if (this.#watchdog?.silence > this.#silence / 2) this.#lost(this.#socket, 1006, "silence");
      this.#followers.set(conversationId, follower);
      signal.addEventListener("abort", () => this.#leave(conversationId, follower));
      if (!this.#socket) this.#open();
      else this.#subscribe(conversationId, follower);
    });
  }

  async #open(mended = false) {
    const opening = (this.#socket = {});
    const { renewals } = this.#access;
    let socket;
    try {
      const ticket = this.#access.hasHeaders ? await this.#ticket() : undefined;
      if (this.#socket !== opening) return;
      const url = this.#access.url("ws", { user_id: this.#userId, ticket });
      url.protocol = url.protocol.replace("http", "ws");
      this.#socket = socket = new WebSocket(url, "chatstream.v1");
    } catch (error) {
      return this.#failed(opening, error);
    }
    let heard = false;
    this.#watchdog = new Watchdog(this.#silence, () => this.#lost(socket, 1006, "silence"));
    socket.onopen = () => {
      this.#access.unopened = -Infinity;
      this.#followers.forEach((one, id) => this.#subscribe(id, one));
    };
    socket.onmessage = ({ data }) => {
      if (this.#socket !== socket) return;
      heard = true;
      this.#watchdog.hear();
      this.#take(JSON.parse(data));
    };
    socket.onclose = ({ code, reason }) => {
      if (this.#socket === socket) this.#access.unopened++;
      if (code === SIGNED_OUT && !heard && !mended) this.#mend(socket, renewals);
      else this.#lost(socket, code === SIGNED_OUT && heard ? 1006 : code, reason);
    };
  }

  /** A ticket stands in for the headers that a browser cannot send; older servers have none. */
  async #ticket() {
    const response = await this.#access.fetch("tickets", {}, { method: "POST" });
    return response.ok ? (await reached(response.json())).ticket : undefined;
  }

  async #mend(socket, renewals) {
    if (this.#socket !== socket) return;
    this.#watchdog.stop();
    try {
      const mended = await this.#access.refresh(renewals);
      if (this.#socket !== socket) return;
      if (mended) this.#open(true);
      else this.#lost(socket, SIGNED_OUT);
    } catch (error) {
      this.#failed(socket, error);
    }
  }

  #take(frame) {
    if (frame.type === "heartbeat") {
      this.#followers.forEach((one) => one.begun && one.take(frame));
      return;
    }
    const follower = this.#followers.get(frame.conversation_id);
    if (!follower) return;
    if (frame.ref === follower.ref) {
      if (frame.type === "error") return this.#refused(frame, follower);
      follower.begun = true;
    } else if (frame.type === "error" && follower.begun) {
      return this.#refused(frame, follower);
    }
    // What a subscription sends that this one has replaced is on its way before the answer.
    if (follower.begun) follower.take(frame);
  }

  #refused(frame, follower) {
    const { code, message, errors, retry_after: seconds } = frame;
    const retryAfter = seconds === undefined ? undefined : seconds * 1000;
    this.#followers.delete(frame.conversation_id);
    follower.fail(new ChatstreamError(message, { code, retryable: !errors, retryAfter }));
    this.#rest();
  }

  #subscribe(conversationId, { after, ref }) {
    this.#send({ type: "subscribe", conversation_id: conversationId, after, ref });
  }

  #leave(conversationId, follower) {
    follower.fail(new ChatstreamError("The conversation was left."));
    if (this.#followers.get(conversationId) !== follower) return;
    this.#followers.delete(conversationId);
    this.#send({ type: "unsubscribe", conversation_id: conversationId });
    this.#rest();
  }

  /** Close the socket where nobody needs it. */
  #rest() {
    if (!this.#followers.size) this.#lost(this.#socket, 1000);
  }

  #send(frame) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(frame));
  }

  #lost(socket, code, reason) {
    const status = code === SIGNED_OUT ? 401 : 0;
    const retryAfter = code === OVERLOADED ? LATER : undefined;
    const retryable = !status && !FINAL.has(code);
    const message = `The connection was closed (${reason || code}).`;
    this.#failed(socket, new ChatstreamError(message, { status, retryable, retryAfter }));
  }

  #failed(socket, error) {
    if (!socket || this.#socket !== socket) return;
    this.#socket = null;
    this.#watchdog?.stop();
    this.#watchdog = undefined;
    // One that is not open yet would complain on the console.
    if (socket.readyState === WebSocket.CONNECTING) socket.onopen = () => socket.close();
    else socket.close?.();
    const followers = [...this.#followers.values()];
    this.#followers.clear();
    for (const follower of followers) follower.fail(error);
  }
}

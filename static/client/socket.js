/**
 * The transport over a WebSocket: it is opened with a ticket where headers are wanted, and each
 * frame is handed to the line. This module knows nothing of other tabs or of when to try again.
 */

import { ChatstreamError, reached } from "./chatstream-error.js";

/** The close code of a server that is overloaded: it is left alone for so long (ms). */
const OVERLOADED = 1013;
const LATER = 5_000;
const SIGNED_OUT = 4401;
/** Coming back does not mend these: wrong data, a policy, a frame that is too large. */
const FINAL = new Set([1003, 1007, 1008, 1009]);

/** The connection over a WebSocket, on which conversations come and go. */
export class Socket {
  #line;
  #socket = null;
  /** By conversation id: for whom it was asked. */
  #asked;
  #isOver = false;

  constructor(line) {
    this.#line = line;
    this.#open();
  }

  /** Whom the line follows has changed. */
  change() {
    if (this.#socket?.readyState !== WebSocket.OPEN) return;
    const { followers } = this.#line;
    for (const id of this.#asked.keys()) {
      if (followers.has(id)) continue;
      this.#asked.delete(id);
      this.#send({ type: "unsubscribe", conversation_id: id });
    }
    for (const [id, follower] of followers) {
      if (this.#asked.get(id) === follower) continue;
      this.#asked.set(id, follower);
      const { ref, place } = follower;
      this.#send({ type: "subscribe", conversation_id: id, after: place(), ref });
    }
  }

  close() {
    this.#isOver = true;
    const socket = this.#socket;
    if (!socket) return;
    socket.onmessage = socket.onclose = null;
    // One that is not open yet would complain on the console.
    if (socket.readyState === WebSocket.CONNECTING) socket.onopen = () => socket.close();
    else socket.close();
  }

  async #open(isMended = false) {
    const { access, userId: user_id } = this.#line;
    const { renewals } = access;
    this.#asked = new Map();
    try {
      const ticket = await (access.headers && ticketOf(access));
      if (this.#isOver) return;
      const url = access.url("ws", { user_id, ticket: ticket || undefined });
      url.protocol = url.protocol.replace("http", "ws");
      this.#socket = new WebSocket(url, "chatstream.v1");
    } catch (error) {
      return this.#line.lost(this, error);
    }
    let isHeard = false;
    this.#socket.onopen = () => {
      access.unopened = -Infinity;
      this.change();
    };
    this.#socket.onmessage = ({ data }) => {
      isHeard = true;
      const frame = JSON.parse(data);
      // What is sent for one who has left is on its way before the answer to who came.
      const follower = this.#asked.get(frame.conversation_id);
      if (follower && follower.ref === frame.ref) follower.source = this;
      this.#line.take(frame, this);
    };
    this.#socket.onclose = async ({ code, reason }) => {
      access.unopened++;
      const isSignedOut = code === SIGNED_OUT && !isHeard;
      try {
        const again = isSignedOut && !isMended && (await access.refresh(renewals));
        if (!again) throw closed(code, reason, isSignedOut);
        if (!this.#isOver) this.#open(true);
      } catch (error) {
        this.#line.lost(this, error);
      }
    };
  }

  #send(frame) {
    this.#socket.send(JSON.stringify(frame));
  }
}

/** A ticket stands in for the headers that a browser cannot send; older servers have none. */
async function ticketOf(access) {
  const response = await access.fetch("tickets", {}, { method: "POST" });
  return response.ok && (await reached(response.json())).ticket;
}

function closed(code, reason, isSignedOut) {
  return new ChatstreamError(`The connection was closed (${reason || code}).`, {
    status: isSignedOut ? 401 : 0,
    retryable: !isSignedOut && !FINAL.has(code),
    retryAfter: code === OVERLOADED ? LATER : undefined,
  });
}

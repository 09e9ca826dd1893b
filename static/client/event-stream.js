/**
 * The transport over Server-Sent Events: one request, read to its end, each event handed to the
 * line. This module knows nothing of other tabs or of when to try again.
 */

import { ChatstreamError, problem, reached } from "./chatstream-error.js";
import { EventStreamParser } from "./event-stream-parser.js";

/** The connection over Server-Sent Events: one request for all, made anew when they change. */
export class EventStream {
  #line;
  #request;
  #isAnswered;
  #isOld;
  #isOver = false;

  constructor(line) {
    this.#line = line;
    this.#run();
  }

  /** Whom the line follows has changed. What is under way is waited for: one more request does. */
  change() {
    this.#isOld = true;
    if (this.#isAnswered) this.#request.abort();
  }

  close() {
    this.#isOver = true;
    this.#request.abort();
  }

  async #run() {
    while (!this.#isOver) {
      const { signal } = (this.#request = new AbortController());
      const parser = new EventStreamParser();
      this.#isAnswered = false;
      await null; // what changes in one tick is one change
      this.#isOld = false;
      try {
        await this.#read(parser, signal);
      } catch (error) {
        if (signal.aborted) continue;
        error.retryAfter ??= parser.retry;
        this.#line.lost(this, error);
      }
    }
  }

  async #read(parser, signal) {
    const { access, userId: user_id, followers } = this.#line;
    const none = followers.size > 1 ? "" : undefined;
    const after = Array.from(followers.values(), (follower) => {
      follower.source = signal;
      return follower.place() ?? none;
    });
    const conversation_id = [...followers.keys()];
    const headers = { Accept: "text/event-stream" };
    const request = { headers, cache: "no-store", signal };
    const response = await access.fetch("events", { user_id, conversation_id, after }, request);
    this.#isAnswered = true;
    if (this.#isOld) return this.#request.abort();
    if (!response.ok) throw await problem(response);
    if (!response.headers.get("Content-Type")?.startsWith("text/event-stream")) {
      throw new ChatstreamError("Something in between answered in the server's place.");
    }
    const text = new TextDecoder();
    const reader = response.body.getReader();
    while (!signal.aborted) {
      const { done, value } = await reached(reader.read());
      if (done) throw new ChatstreamError("The stream was cut.");
      for (const data of parser.push(text.decode(value, { stream: true }))) {
        if (!signal.aborted) this.#line.take(JSON.parse(data), signal);
      }
    }
  }
}

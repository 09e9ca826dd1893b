import { ChatstreamError, problem, reached } from "./chatstream-error.js";
import { EventStreamParser } from "./event-stream-parser.js";

/** Proxies take an address of 8 KB, and it has more in it than what is counted here. */
const ADDRESS = 7_500;
/** As long as a cursor is. */
const CURSOR = "1764000000000-0000";

/** The connection over Server-Sent Events: one request for all, made anew when they change. */
export class EventStream {
  /** Whether one request can be for so many. */
  static hasRoom(access, ids) {
    const query = { conversation_id: ids, after: ids.map(() => CURSOR) };
    return ids.length === 1 || access.url("events", query).href.length < ADDRESS;
  }

  #access;
  #userId;
  #line;
  #request;
  #isAnswered;
  #isOld;
  #isOver = false;

  constructor(access, userId, line) {
    this.#access = access;
    this.#userId = userId;
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
    const asked = new Map(this.#line.followers);
    const none = asked.size > 1 ? "" : undefined;
    const query = {
      user_id: this.#userId,
      conversation_id: [...asked.keys()],
      after: Array.from(asked.values(), ({ place }) => place() ?? none),
    };
    const headers = { Accept: "text/event-stream" };
    const response = await this.#access.fetch("events", query, {
      headers,
      cache: "no-store",
      signal,
    });
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
        if (!signal.aborted) this.#line.take(JSON.parse(data), asked);
      }
    }
  }
}

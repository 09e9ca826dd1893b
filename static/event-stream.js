import { ChatstreamError, problem, reached } from "./chatstream-error.js";
import { EventStreamParser } from "./event-stream-parser.js";
import { Watchdog } from "./watchdog.js";

/** The transport over Server-Sent Events: a request for each conversation that is followed. */
export class EventStream {
  #access;
  #userId;
  #silence;

  /** `silence`: how long a stream may say nothing (ms). */
  constructor(access, userId, silence) {
    this.#access = access;
    this.#userId = userId;
    this.#silence = silence;
  }

  /** Pass on what comes after `after`, until the stream ends, which is always an error. */
  async follow(conversationId, after, take, signal) {
    const stream = new AbortController();
    const stop = () => stream.abort();
    signal.addEventListener("abort", stop);
    const watchdog = new Watchdog(this.#silence, stop);
    const parser = new EventStreamParser();
    try {
      const query = { user_id: this.#userId, conversation_id: conversationId, after };
      const response = await this.#access.fetch("events", query, {
        headers: { Accept: "text/event-stream" },
        cache: "no-store",
        signal: stream.signal,
      });
      if (!response.ok) throw await problem(response);
      if (!response.headers.get("Content-Type")?.startsWith("text/event-stream")) {
        throw new ChatstreamError("Something in between answered in the server's place.");
      }
      const text = new TextDecoder();
      const reader = response.body.getReader();
      for (;;) {
        const { done, value } = await reached(reader.read());
        if (done) throw new ChatstreamError("The stream was cut.");
        watchdog.hear();
        const events = parser.push(text.decode(value, { stream: true }));
        for (const event of events) take(JSON.parse(event));
      }
    } catch (error) {
      error.retryAfter ??= parser.retry;
      throw error;
    } finally {
      watchdog.stop();
      signal.removeEventListener("abort", stop);
      stop();
    }
  }
}

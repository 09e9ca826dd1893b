/**
 * The framing of `text/event-stream`. This module knows nothing of where the text comes from or of
 * what the events say.
 */

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

  /** Take the next piece of text; return the data of each event that it completes. */
  push(text) {
    // A CR at the very end may be half a CRLF: it waits for what follows.
    const lines = (this.#line + text).split(/\r\n|\n|\r(?!$)/);
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
    const [, name, value] = /^([^:]*):? ?(.*)$/s.exec(line);
    if (name === "data") this.#data.push(value);
    else if (name === "retry" && /^[0-9]+$/.test(value)) this.retry = Number(value);
  }
}

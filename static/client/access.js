/**
 * The calls to one server: what a request carries, how it is signed in again and tried again. This
 * module knows nothing of events or of what the calls mean.
 */

import { ChatstreamError, jitter, problem, reached } from "./chatstream-error.js";

/** Calls that may be repeated safely are tried so often, and each may take so long (ms). */
const ATTEMPTS = 4;
const CALL_TIMEOUT = 30_000;
/** Whoever waits in front of a page is told of a longer wait, rather than kept waiting (ms). */
const PATIENCE = 5_000;

/** The way to one server: where it is, as whom it is asked, and how to sign in again. */
export class Access {
  /** How many WebSockets in a row did not even open; below zero once one has. */
  unopened = 0;
  /** How often the page has signed in again. */
  renewals = 0;
  /** What the page's calls carry, if anything: an object, or a function that makes one. */
  headers;
  #base;
  #refresh;
  #refreshing = null;

  /** @param {import("./chatstream-client.js").Options} options */
  constructor({ base, headers, refresh }) {
    this.#base = new URL(base, globalThis.document?.baseURI);
    this.headers = headers;
    this.#refresh = refresh;
  }

  /** Make an address; a list in the query stands for the same name several times. */
  url(where, query = {}) {
    const url = new URL(where, this.#base);
    for (const [name, values] of Object.entries(query)) {
      for (const value of [values].flat()) {
        if (value !== undefined) url.searchParams.append(name, value);
      }
    }
    return url;
  }

  /** As `fetch`; after a 401 the page signs in again, and the call is made once more. */
  async fetch(where, query, request = {}) {
    for (let again = true; ; again = false) {
      const { renewals } = this;
      const own = typeof this.headers === "function" ? await this.headers() : this.headers;
      const headers = { Accept: "application/json", ...request.headers, ...own };
      const response = await reached(fetch(this.url(where, query), { ...request, headers }));
      if (response.status !== 401 || !again || !(await this.refresh(renewals))) return response;
    }
  }

  /** Make a call and return its JSON. What changes something is tried again: all are idempotent. */
  async call(method, where, { query, body }) {
    const request = { method };
    if (body) {
      request.headers = { "Content-Type": "application/json" };
      request.body = JSON.stringify(body);
    }
    for (let attempt = 1; ; attempt++) {
      try {
        const signal = AbortSignal.timeout(CALL_TIMEOUT);
        const response = await this.fetch(where, query, { ...request, signal });
        if (!response.ok) throw await problem(response);
        return await reached(response.json());
      } catch (error) {
        const last = method === "GET" || attempt === ATTEMPTS || !error.retryable;
        if (last || error.retryAfter > PATIENCE) throw error;
        const delay = error.retryAfter ?? jitter(attempt);
        await new Promise((resolve) => setTimeout(resolve, delay));
      }
    }
  }

  /**
   * Let the page sign in again; false where it has no way to. Whatever was refused, and was asked
   * before the `renewals` of now, shares one. Where `fetch` failed in it, it may succeed later;
   * any other failure is final.
   */
  async refresh(renewals) {
    if (!this.#refresh) return false;
    if (renewals !== this.renewals) return true;
    this.#refreshing ??= Promise.resolve()
      .then(this.#refresh)
      .finally(() => (this.#refreshing = null));
    try {
      await this.#refreshing;
    } catch (cause) {
      const retryable = cause instanceof TypeError;
      const problem = { status: 401, code: "refresh", retryable, cause };
      throw new ChatstreamError("Signing in again failed.", problem);
    }
    this.renewals = renewals + 1;
    return true;
  }
}

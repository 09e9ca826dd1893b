/**
 * What can go wrong between a page and the server, and how long to wait before the next try. This
 * module knows nothing of who asks: calls, connections and subscriptions throw the same error.
 */

/** Reconnecting: the bound of the random delay doubles from the first to the last, in ms. */
const FIRST_DELAY = 500;
const LAST_DELAY = 30_000;
/** Statuses that say "not now" rather than "no". */
const TRANSIENT = new Set([408, 425, 429, 500, 502, 503, 504]);

/** A call that did not succeed. */
export class ChatstreamError extends Error {
  name = "ChatstreamError";
  /** The answer's status; 0 where no answer came at all. */
  status = 0;
  code = "network";
  /** Whether the same call may succeed later. */
  retryable = true;
  /** What the server asked to wait, in ms. */
  retryAfter;
  /** The turn that did start, where the problem is about one. */
  turnId;
  /** What `jitter` is to use, where several are to come back at one moment. */
  dice;

  /**
   * @param {string} message
   * @param {{cause?: unknown, [name: string]: unknown}} [problem] any of these, and the `cause`
   */
  constructor(message, { cause, ...problem } = {}) {
    super(message, { cause });
    Object.assign(this, problem);
  }
}

/** Full jitter: many clients that lost one server do not come back as one. */
export function jitter(failures, dice = Math.random()) {
  return dice * Math.min(LAST_DELAY, FIRST_DELAY * 2 ** Math.min(failures - 1, 10));
}

/** Turn what `fetch` throws when nothing answers into this module's error. */
export async function reached(promise) {
  try {
    return await promise;
  } catch (error) {
    throw new ChatstreamError("The server cannot be reached.", { cause: error });
  }
}

/** Read the problem that a refusal carries. */
export async function problem(response) {
  const body = await response.json().catch(() => ({}));
  const seconds = Number(response.headers.get("Retry-After") || NaN);
  return new ChatstreamError(body.detail ?? body.title ?? `The server answered ${response.status}.`, {
    status: response.status,
    code: body.code ?? "http",
    retryable:
      TRANSIENT.has(response.status) && response.headers.get("x-should-retry") !== "false",
    retryAfter: seconds >= 0 ? seconds * 1000 : undefined,
    turnId: body.turn_id,
  });
}

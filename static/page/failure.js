/**
 * What a reader is told of a call that did not succeed. This module knows nothing of where that is
 * shown.
 */

import { ChatstreamError } from "../client/chatstream-client.js";

/** Why a turn is not done again, in a reader's words. */
const REASONS = {
  turn_running: "it is still being written. Stop it first.",
  nothing_to_continue: "it has no text to go on from.",
  not_found: "it is gone.",
};

/** What may be shown of an error: the server's own words, or that there were none. */
export function readable(error) {
  if (error instanceof ChatstreamError) {
    const { code, message, retryable } = error;
    return { code, message, retryable };
  }
  reportError(error);
  return { message: "Something went wrong in this page.", retryable: true };
}

/** Why an answer was not continued or regenerated (`kind`). */
export function refusal(kind, { code, message }) {
  const what = kind === "continue" ? "continued" : "regenerated";
  return `The answer was not ${what}: ${REASONS[code] ?? message}`;
}

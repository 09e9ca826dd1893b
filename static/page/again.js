/**
 * An ended turn of which something more is asked, as the page shows it until the server has begun:
 * a `regenerate`, a `continue`, or an `edit` of its message. Pure functions from turn to turn. This
 * module knows nothing of elements or of how the server is asked.
 */

import { isBlank } from "./blank.js";

/**
 * The turn while `asked` is on its way: it looks as it will once it runs.
 *
 * @param {object} turn
 * @param {{turnId: string, kind: string, message?: string}} asked the new turn's id; the message is
 *   an edit's
 */
export function asking(turn, { turnId, kind, message }) {
  const original = originalOf(turn);
  const text = kind === "continue" ? original.text : "";
  return {
    ...original,
    status: "sending",
    message: message ?? original.message,
    text,
    begun: text,
    reasoning: "",
    error: null,
    finishReason: null,
    again: { turnId, kind, original },
  };
}

/** The turn when what was asked could not be sent; a new message stays in view, to be kept. */
export function notAsked(turn, error) {
  const shown = turn.again.kind === "edit" ? turn : turn.again.original;
  return { ...shown, status: "unsent", error, again: turn.again };
}

/** The turn as it is, whatever is asked of it. */
export function originalOf(turn) {
  return turn.again?.original ?? turn;
}

/** Say whether another message is to take this one's place. */
export function isEdit(turn) {
  return turn.again?.kind === "edit";
}

/** Say whether an answer ended before its end, with something to go on from. */
export function isContinuable({ status, text, finishReason }) {
  if (isBlank(text)) return false;
  return ["failed", "cancelled", "interrupted"].includes(status) || finishReason === "length";
}

/**
 * One turn as a page knows it: a plain value, made of events or of the history's messages. This
 * module knows nothing of elements or of how the server is asked.
 */

/** @typedef {"sending"|"unsent"|"running"|"completed"|"failed"|"cancelled"|"interrupted"} Status */

const TERMINAL = {
  "turn.completed": "completed",
  "turn.failed": "failed",
  "turn.cancelled": "cancelled",
  "turn.interrupted": "interrupted",
};

/** Say whether an event ends its turn. */
export const isTerminal = (event) => event.type in TERMINAL;

/** A turn of which nothing is known but its id. */
export function blank(turnId) {
  return {
    turnId,
    startedId: undefined,
    message: undefined,
    createdAt: undefined,
    status: "completed",
    text: "",
    /** What a continued answer begins with: shown until its text is there. */
    begun: "",
    reasoning: "",
    provider: undefined,
    model: undefined,
    usage: null,
    finishReason: null,
    error: null,
    reason: null,
    endedAt: undefined,
    durationMs: null,
    feedback: null,
    stopping: false,
    /** The turn that this one took the place of. */
    replaces: undefined,
    kind: undefined,
    /** What is asked of the turn, and not begun: see again.js. */
    again: null,
  };
}

/** The turn after its terminal event, which has all of it. */
export function ended(turn, event) {
  return {
    ...turn,
    status: TERMINAL[event.type],
    text: event.text ?? "",
    reasoning: event.reasoning ?? "",
    provider: event.provider ?? turn.provider,
    model: event.model ?? turn.model,
    usage: event.usage ?? null,
    finishReason: event.finish_reason ?? null,
    error: event.error ?? null,
    reason: event.reason ?? null,
    endedAt: event.ended_at,
    durationMs: event.duration_ms ?? null,
    stopping: false,
  };
}

/** A turn as an older version of it was, as `GET /turns/{turn_id}/versions` tells. */
export function olderVersion(turn, version) {
  return {
    ...blank(turn.turnId),
    message: version.message.content,
    status: version.status,
    text: version.text,
    provider: version.provider ?? undefined,
    model: version.model ?? undefined,
  };
}

/** Make turns of the history's messages, which come oldest first. */
export function gather(messages) {
  const turns = new Map();
  for (const row of messages) {
    const turn = turns.get(row.turn_id) ?? blank(row.turn_id);
    turn.status = row.status ?? turn.status;
    turn.error = row.error ?? turn.error;
    if (row.role === "user") {
      turn.message = row.message;
      turn.startedId = row.id;
      turn.createdAt = row.timestamp;
      turn.replaces = row.replaces;
    } else {
      turn.text = row.message;
      turn.reasoning = row.reasoning ?? "";
      turn.startedId ??= row.id;
      turn.endedAt = row.timestamp;
    }
    turn.provider = row.provider ?? turn.provider;
    turn.model = row.model ?? turn.model;
    turn.usage = row.usage ?? turn.usage;
    turn.finishReason = row.finish_reason ?? turn.finishReason;
    turn.feedback = row.feedback ?? turn.feedback;
    turns.set(row.turn_id, turn);
  }
  return [...turns.values()];
}

/** Say whether a turn's reply may still grow. */
export function isRunning(turn) {
  return turn.status === "running" || turn.status === "sending";
}

/** Say whether the reader waits for a word that was not there before. */
export function isWaiting(turn) {
  return isRunning(turn) && turn.text.length <= turn.begun.length;
}

/** Say whether the server knows of a running turn, and was not asked to stop it yet. */
export function isStoppable(turn) {
  return turn.status === "running" && !turn.stopping;
}

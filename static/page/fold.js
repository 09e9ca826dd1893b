/**
 * A conversation as a page shows it: a pure fold over events (`protocol.md`, section 2). This
 * module knows no DOM, no network and no clock; every function returns a new state and leaves the
 * old one as it was, so a view may compare turns with `===`.
 *
 * A state is {turns, lastId, places, hasMore, before, title, stale}. `turns` are in order of their
 * `turn.started`; one that this page has sent, and the server has not confirmed, stands last.
 */

import { asking, notAsked, originalOf } from "./again.js";
import { blank, ended, gather, isTerminal } from "./turn.js";

export const EMPTY = Object.freeze({
  turns: Object.freeze([]),
  lastId: undefined,
  /** Where each turn that was ever seen began, also those out of view: turn_id -> event id. */
  places: new Map(),
  hasMore: false,
  before: undefined,
  title: undefined,
  /** An event spoke of a turn that was never seen here: only loading again gives the truth. */
  stale: false,
});

/** Take one event in. Unknown types, and events that were taken already, change nothing. */
export function fold(state, event) {
  if (event.type === "ready") return { ...state, lastId: event.id ?? state.lastId };
  if (!event.id || (state.lastId !== undefined && event.id <= state.lastId)) return state;
  return take({ ...state, lastId: event.id }, event);
}

function take(state, event) {
  if (isTerminal(event)) return change(state, event.turn_id, (turn) => ended(turn, event));
  switch (event.type) {
    case "turn.started":
      return started(state, event);
    case "turn.answering":
      return change(state, event.turn_id, (turn) => ({
        ...turn,
        provider: event.provider,
        model: event.model,
      }));
    case "delta": {
      const part = event.kind === "reasoning" ? "reasoning" : "text";
      return change(state, event.turn_id, (turn) => grown(turn, part, event.text));
    }
    case "conversation.renamed":
      return { ...state, title: event.title };
    case "history.cleared":
      return {
        ...state,
        turns: state.turns.filter((turn) => !turn.startedId || turn.startedId > event.id),
        places: new Map(),
        hasMore: false,
        before: undefined,
      };
    default:
      return state;
  }
}

function grown(turn, part, text) {
  const isBegin = turn.kind === "continue" && part === "text" && !turn.text;
  return { ...turn, [part]: turn[part] + text, begun: isBegin ? text : turn.begun };
}

function started(state, event) {
  let { turns, stale } = state;
  const replaced = event.replaces && turns.find((turn) => turn.turnId === event.replaces);
  if (event.replaces) {
    const first = state.places.get(event.replaces);
    // A turn that the history showed has its predecessor out of view already.
    if (first === undefined) stale ||= !state.places.has(event.turn_id);
    else turns = turns.filter((turn) => !between(turn.startedId, first, event.id));
  }
  const known = turns.find((turn) => turn.turnId === event.turn_id);
  const turn = {
    ...blank(event.turn_id),
    feedback: known?.feedback ?? null,
    stopping: known?.stopping ?? false,
    startedId: event.id,
    message: event.message?.content ?? "",
    createdAt: event.created_at,
    // Who was asked; `turn.answering` says who really answers.
    provider: event.request?.provider,
    model: event.request?.model,
    replaces: event.replaces,
    kind: event.kind,
    begun: event.kind === "continue" && replaced ? originalOf(replaced).text : "",
    status: "running",
  };
  const places = new Map(state.places).set(turn.turnId, event.id);
  return { ...state, turns: placed(turns, turn), places, stale };
}

/** Begin again with the newest page of the history; what was not sent yet stays. */
export function withHistory(state, page) {
  const asked = new Map(state.turns.filter(isAsked).map((turn) => [turn.turnId, turn]));
  const turns = gather(page.history).map((turn) => asked.get(turn.turnId) ?? turn);
  const ids = new Set(turns.map((turn) => turn.turnId));
  const local = state.turns.filter((turn) => !turn.startedId && !ids.has(turn.turnId));
  return {
    ...EMPTY,
    turns: [...turns, ...local],
    places: placesOf(turns),
    lastId: page.cursor,
    hasMore: Boolean(page.has_more),
    before: page.before ?? undefined,
    title: state.title,
  };
}

/** Put an older page in front. A turn that the page cut in two is joined again. */
export function withOlder(state, page) {
  const older = gather(page.history);
  const first = state.turns[0];
  const cut = older.at(-1);
  let turns = state.turns;
  if (cut && first?.turnId === cut.turnId) {
    turns = [{ ...first, message: cut.message, startedId: cut.startedId }, ...turns.slice(1)];
    older.pop();
  }
  return {
    ...state,
    turns: [...older, ...turns],
    places: new Map([...state.places, ...placesOf(older), ...placesOf(turns)]),
    hasMore: Boolean(page.has_more),
    before: page.before ?? undefined,
  };
}

/**
 * Show a message that is on its way to the server: at the end, or in place of the turn that it
 * `replaces`, as again.js has it.
 *
 * @param {typeof EMPTY} state
 * @param {{turnId: string, message?: string, createdAt?: string, replaces?: string,
 *   kind?: string}} body
 */
export function sending(state, { turnId, message, createdAt, replaces, kind = "edit" }) {
  if (replaces) {
    return change(state, replaces, (turn) => asking(turn, { turnId, kind, message }));
  }
  const turns = state.turns.filter((turn) => turn.turnId !== turnId);
  const turn = { ...blank(turnId), message, createdAt, status: "sending" };
  return { ...state, turns: [...turns, turn] };
}

/** The server has the message; its events may not have come yet. */
export function accepted(state, turnId) {
  return change(state, turnId, (turn) =>
    turn.status === "sending" ? { ...turn, status: "running" } : turn,
  );
}

/** The server does not have the message, as far as this page can know. */
export function unsent(state, turnId, error) {
  return change(state, askedOf(state, turnId) ?? turnId, (turn) => {
    if (turn.again) return notAsked(turn, error);
    return turn.startedId ? turn : { ...turn, status: "unsent", error };
  });
}

/** Take a message that was not sent away; what it was to replace is there again. */
export function withdrawn(state, turnId) {
  const asked = askedOf(state, turnId);
  if (asked) return change(state, asked, originalOf);
  return { ...state, turns: state.turns.filter((turn) => turn.turnId !== turnId) };
}

/** The user has asked to stop; the terminal event will say what became of it. */
export function stopping(state, turnId, asked = true) {
  return change(state, turnId, (turn) => ({ ...turn, stopping: asked }));
}

export function rated(state, turnId, feedback) {
  return change(state, turnId, (turn) => ({ ...turn, feedback }));
}

/** Why a turn failed, where the history does not tell. */
export function explained(state, turnId, error) {
  return change(state, turnId, (turn) => ({ ...turn, error }));
}

function isAsked(turn) {
  return Boolean(turn.again);
}

/** The turn of which a new one, that has not begun, is asked. */
function askedOf(state, turnId) {
  return state.turns.find((turn) => turn.again?.turnId === turnId)?.turnId;
}

function placesOf(turns) {
  return new Map(turns.filter((turn) => turn.startedId).map((turn) => [turn.turnId, turn.startedId]));
}

function between(id, first, last) {
  return id !== undefined && id >= first && id < last;
}

function placed(turns, turn) {
  const others = turns.filter((other) => other.turnId !== turn.turnId);
  let at = others.length;
  while (at > 0 && !(others[at - 1].startedId < turn.startedId)) at--;
  return [...others.slice(0, at), turn, ...others.slice(at)];
}

function change(state, turnId, how) {
  const at = state.turns.findLastIndex((turn) => turn.turnId === turnId);
  if (at < 0) return state;
  const turns = state.turns.slice();
  turns[at] = how(turns[at]);
  return { ...state, turns };
}

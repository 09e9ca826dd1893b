/**
 * One conversation, followed live: what the user does goes to the server, what happens comes back
 * as events, and `state` is the fold of them. Views hear of every new state and keep none.
 */

import { ChatstreamClient, ChatstreamError, newTurnId } from "./chatstream-client.js";
import * as folding from "./fold.js";
import { Outbox } from "./outbox.js";
import { isRunning, isStoppable } from "./turn.js";

/** Messages a page of the history has: enough to fill a screen, few enough to be there at once. */
const PAGE = 40;
/** A tab that nobody looks at, and where nothing runs, gives its stream up after so long (ms). */
const UNSEEN = 10_000;

export class Conversation {
  state = folding.EMPTY;
  /** Whether the history was shown once. */
  loaded = false;
  #client;
  #subscription;
  #handlers;
  #outbox;
  #unseen;
  #over = new AbortController();

  /**
   * @param {object} place `userId` and `conversationId`
   * @param {object} handlers `onState(state)`, `onConnection(connection, error)`,
   *   `onEvent(event)`, `onFailure(what, error)`
   */
  constructor(place, handlers) {
    this.#client = new ChatstreamClient(place);
    this.#outbox = new Outbox(`${place.userId}/${place.conversationId}`);
    this.#handlers = handlers;
    this.#subscription = this.#client.subscribe({
      load: () => this.#load(),
      onEvent: (event) => this.#take(event),
      onState: (connection, error) => handlers.onConnection(connection, error),
    });
    const { signal } = this.#over;
    document.addEventListener("visibilitychange", () => this.#restUnseen(), { signal });
  }

  close() {
    this.#over.abort();
    clearTimeout(this.#unseen);
    this.#subscription.close();
  }

  /** Connect now, rather than when the pause between two tries is over. */
  reconnect() {
    this.#subscription.wake();
  }

  /** Send a message; it is shown before the server has it. */
  async submit(message, options = {}) {
    const turnId = newTurnId();
    this.#outbox.put({ turnId, message, ...options });
    return this.#send(turnId);
  }

  /** Have a turn answered again, or send one that the server has not got. */
  async retry(turn, options = {}) {
    if (turn.status === "unsent") return this.#send(turn.turnId);
    return this.revise(turn, turn.message, options);
  }

  /** Put another message in a turn's place; it and what came after it go. Says whether it did. */
  revise(turn, message, options = {}) {
    const call = { turnId: newTurnId(), message, replaces: turn.turnId, ...options };
    return this.#try("The message could not be sent again", () => this.#client.send(call));
  }

  /** Take a message away that the server has not got. */
  withdraw(turn) {
    this.#outbox.drop(turn.turnId);
    this.#set(folding.withdrawn(this.state, turn.turnId));
  }

  /** Stop whatever can be stopped. */
  async stop() {
    const running = this.state.turns.filter(isStoppable);
    await Promise.all(running.map((turn) => this.#stop(turn.turnId)));
  }

  clear() {
    return this.#try("The conversation could not be cleared", () => this.#client.clear());
  }

  /** Rate an answer; returns whether the server has it. */
  async rate(turn, feedback) {
    this.#set(folding.rated(this.state, turn.turnId, feedback));
    const kept = await this.#try("The feedback was not kept", () =>
      this.#client.feedback({ turnId: turn.turnId, ...feedback }),
    );
    if (!kept) this.#set(folding.rated(this.state, turn.turnId, turn.feedback));
    return kept;
  }

  /** Load the page before the oldest message that is here. Rejects where that fails. */
  async loadOlder(change) {
    const { before } = this.state;
    const page = await this.#client.history({ limit: PAGE, before });
    if (this.#over.signal.aborted || this.state.before !== before) return;
    change(() => this.#set(folding.withOlder(this.state, page)));
  }

  get isRunning() {
    return this.state.turns.some(isRunning);
  }

  async #load() {
    const page = await this.#client.history({ limit: PAGE });
    if (this.#over.signal.aborted) return page.cursor;
    this.#set(folding.withHistory(this.state, page));
    this.#explainFailures();
    if (!this.loaded) this.#sendWaiting();
    this.loaded = true;
    return page.cursor;
  }

  /** What this tab was sending when it was reloaded. */
  #sendWaiting() {
    for (const turnId of this.#outbox.turnIds) {
      if (this.state.places.has(turnId)) this.#outbox.drop(turnId);
      else this.#send(turnId);
    }
  }

  /** The history says that a turn failed; only the turn itself says why. */
  async #explainFailures() {
    for (const { turnId, status, error } of this.state.turns) {
      if (status !== "failed" || error) continue;
      const turn = await this.#client.turn(turnId).catch(() => null);
      if (turn?.error) this.#set(folding.explained(this.state, turnId, turn.error));
    }
  }

  #take(event) {
    this.#set(folding.fold(this.state, event));
    this.#handlers.onEvent(event);
    if (this.state.stale) this.#subscription.reload();
    if (event.type !== "delta") this.#restUnseen();
  }

  async #send(turnId) {
    const body = this.#outbox.get(turnId);
    const createdAt = new Date().toISOString();
    this.#set(folding.sending(this.state, { turnId, message: body.message, createdAt }));
    try {
      await this.#client.send(body);
      this.#outbox.drop(turnId);
      this.#set(folding.accepted(this.state, turnId));
      return true;
    } catch (error) {
      this.#set(folding.unsent(this.state, turnId, readable(error)));
      return false;
    }
  }

  async #stop(turnId) {
    this.#set(folding.stopping(this.state, turnId));
    const stopped = await this.#try("The answer could not be stopped", () =>
      this.#client.cancel(turnId),
    );
    if (!stopped) this.#set(folding.stopping(this.state, turnId, false));
  }

  async #try(complaint, call) {
    try {
      await call();
      return true;
    } catch (error) {
      this.#handlers.onFailure(`${complaint}: ${readable(error).message}`);
      return false;
    }
  }

  #set(state) {
    if (state === this.state || this.#over.signal.aborted) return;
    this.state = state;
    this.#handlers.onState(state);
  }

  #restUnseen() {
    clearTimeout(this.#unseen);
    if (document.visibilityState === "visible" || this.isRunning) return;
    this.#unseen = setTimeout(() => this.#subscription.rest(), UNSEEN);
  }
}

/** What may be shown of an error: the server's own words, or that there were none. */
function readable(error) {
  if (error instanceof ChatstreamError) return { message: error.message, retryable: error.retryable };
  reportError(error);
  return { message: "Something went wrong in this page.", retryable: true };
}

/**
 * One conversation, followed live: what the user does goes to the server, what happens comes back
 * as events, and `state` is the fold of them. Views hear of every new state and keep none. This
 * module knows no element of the page.
 */

import { newTurnId } from "../client/chatstream-client.js";
import { readable, refusal } from "./failure.js";
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
   * @param {import("../client/chatstream-client.js").ChatstreamClient} client whose connection is
   *   used
   * @param {{userId: string, conversationId: string}} place
   * @param {{onState: (state: object) => void, onEvent: (event: object) => void,
   *   onConnection: (state: string, error?: Error) => void,
   *   onFailure: (text: string) => void}} handlers
   */
  constructor(client, place, handlers) {
    this.#client = client.at(place.conversationId);
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

  /** Send what the server has not got: a message, or what was asked of a turn. */
  retry({ turnId }) {
    const turn = this.#inView(turnId);
    return turn?.status === "unsent" && this.#send(turn.again?.turnId ?? turnId);
  }

  /**
   * Have an ended turn's message answered anew (`kind` "regenerate"), or its answer go on where
   * it stopped ("continue"). Asking again before that has begun asks nothing more. `others` are
   * the options of who is to answer anew, where that is not who answered before.
   */
  again({ turnId, message }, kind, others) {
    return this.#replace(turnId, others ? { kind, message, ...others } : { kind });
  }

  /** Put another message in a turn's place; it and what came after it go. */
  revise({ turnId }, message, options = {}) {
    return this.#replace(turnId, { message, ...options });
  }

  /** List the versions of a turn, the oldest first. */
  async versions({ turnId }) {
    return (await this.#client.versions(turnId)).versions;
  }

  /** Take away what the server has not got. */
  withdraw(turn) {
    const turnId = turn.again?.turnId ?? turn.turnId;
    this.#outbox.drop(turnId);
    this.#set(folding.withdrawn(this.state, turnId));
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

  #replace(replaces, what) {
    const turn = this.#inView(replaces);
    if (turn && isRunning(turn)) return false;
    if (turn?.again) this.withdraw(turn);
    const body = { turnId: newTurnId(), replaces, ...what };
    this.#outbox.put(body);
    return this.#send(body.turnId);
  }

  #inView(turnId) {
    return this.state.turns.find((turn) => turn.turnId === turnId);
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
    if (body.replaces && !this.#inView(body.replaces)) return this.#strand(body);
    this.#set(folding.sending(this.state, { ...body, createdAt: new Date().toISOString() }));
    try {
      await this.#call(body);
      this.#outbox.drop(turnId);
      this.#set(folding.accepted(this.state, turnId));
      return true;
    } catch (error) {
      const told = readable(error);
      if (body.kind && !told.retryable) this.#refuse(body, told);
      else this.#set(folding.unsent(this.state, turnId, told));
      return false;
    }
  }

  #call({ kind, ...body }) {
    if (!kind || body.message !== undefined) return this.#client.send(body);
    return this.#client[kind](body.replaces, { newId: body.turnId });
  }

  /** What it was to replace has gone from view: a text stays, to be sent or not. */
  #strand({ turnId, kind, message }) {
    this.#outbox.drop(turnId);
    if (kind) return;
    const body = { turnId, message };
    this.#outbox.put(body);
    const error = { message: "The message that it was to replace is gone.", retryable: true };
    this.#set(folding.unsent(folding.sending(this.state, body), turnId, error));
  }

  /** The server will not do a turn again: it stays as it is, and the user is told why. */
  #refuse({ turnId, kind }, told) {
    this.#outbox.drop(turnId);
    this.#set(folding.withdrawn(this.state, turnId));
    this.#handlers.onFailure(refusal(kind, told));
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

/**
 * One turn on the page: the user's message, the reply, and what can be done with them. This module
 * knows nothing of other turns or of the server: what is pressed goes to `actions`.
 */

import { isEdit } from "./again.js";
import { isBlank } from "./blank.js";
import { button, element, icon, setText } from "./dom.js";
import { MarkdownView } from "./markdown-view.js";
import { showPieces } from "./pieces.js";
import { RatingView } from "./rating-view.js";
import { Toolbar } from "./toolbar.js";
import { turnParts } from "./turn-parts.js";
import { isRunning, isWaiting, olderVersion } from "./turn.js";

/** Shorter waits are not counted before the reader's eyes (ms). */
const PATIENCE = 2500;

/** How a reply that is not whole ended, by its finish reason. */
const CUT = {
  length: "Cut off: the answer reached its longest length.",
  filter: "The provider's filter ended this answer.",
};
/** And one that shows no text. */
const NO_TEXT = {
  length: "The model reached its longest length before it began its answer.",
  filter: "The provider's filter kept this answer back.",
  tool: "The model called a function instead of answering.",
};

export class TurnView {
  element;
  #actions;
  #turn;
  #isLast;
  /** The older version that is looked at, if one is. */
  #version;
  #parts = turnParts();
  #answer;
  #thoughts;
  #rating;
  #toolbar;
  #revise;
  /** What is in view: the turn, or its older version. */
  #shown;
  /** By this machine's clock: the server's may differ. */
  #since = Date.now();

  /**
   * @param {{again: (turn: object, kind: string) => void, revise: (turn: object) => void,
   *   versions: (turn: object) => Promise<object[]>,
   *   rate: (turn: object, feedback: object) => Promise<boolean>, retry: (turn: object) => void,
   *   edit: (turn: object) => void, withdraw: (turn: object) => void}} actions the last three are
   *   for an unsent one
   */
  constructor(actions) {
    this.#actions = actions;
    const parts = this.#parts;
    this.element = element("li", { class: "turn" }, parts.question, parts.reply);
    this.#answer = new MarkdownView(parts.answer, true);
    this.#thoughts = new MarkdownView(parts.thoughtsText, true);
    this.#rating = new RatingView((feedback) => actions.rate(this.#turn, feedback));
    const handlers = {
      onAgain: (kind) => this.#again(kind),
      list: actions.versions,
      onVersion: (version) => this.#show(version),
    };
    this.#toolbar = new Toolbar(handlers, this.#rating.buttons);
    const edit = { class: "quiet", title: "Edit the message", "aria-label": "Edit the message" };
    this.#revise = button(edit, icon("pencil"), () => actions.revise(this.#turn));
    parts.asked.prepend(this.#revise);
    parts.reply.append(this.#toolbar.element, this.#rating.form);
    parts.deliveryRetry.onclick = () => actions.retry(this.#turn);
    parts.deliveryEdit.onclick = () => actions.edit(this.#turn);
    parts.endingRetry.onclick = () => this.#retry();
    parts.endingCancel.onclick = () => this.#withdraw();
  }

  /** Show a turn, the same or the one that took its place; `isLast` may be answered again. */
  update(turn, isLast) {
    if (turn === this.#turn && isLast === this.#isLast) return;
    if (turn.turnId !== this.#turn?.turnId) {
      this.#since = Date.now();
      this.#rating.hide();
      this.#version = undefined;
    }
    if (isRunning(turn)) this.#version = undefined;
    this.#turn = turn;
    this.#isLast = isLast;
    this.element.classList.toggle("last", isLast);
    this.#toolbar.versions.update(turn, this.element);
    this.#paint();
  }

  /** Give up what the page would otherwise keep for it. */
  close() {
    this.#toolbar.versions.close();
    this.element.remove();
  }

  /** Whether the reader waits for the first word, and `tick` is wanted every second. */
  get isWaiting() {
    return isWaiting(this.#turn);
  }

  /** Say how long the wait has been. */
  tick(now) {
    const { waiting, waited } = this.#parts;
    waiting.hidden = !this.isWaiting;
    if (waiting.hidden) return;
    const elapsed = now - this.#since;
    const { reasoning, begun } = this.#turn;
    const word = begun ? "the next word" : "the first word";
    const doing = reasoning ? "Thinking" : `Waiting for ${word}`;
    setText(waited, elapsed > PATIENCE ? `${doing}, ${Math.round(elapsed / 1000)} s` : "");
  }

  #show(version) {
    this.#version = version;
    this.#paint();
  }

  #paint() {
    const old = this.#shown;
    const shown = this.#version ? olderVersion(this.#turn, this.#version) : this.#turn;
    this.#shown = shown;
    const { question, message, reply } = this.#parts;
    const isLocal = shown.status === "sending" || shown.status === "unsent";
    this.element.dataset.status = shown.status;
    this.element.classList.toggle("old", Boolean(this.#version));
    question.hidden = shown.message === undefined;
    showPieces(message, shown.message ?? "");
    const isUnsaid = isLocal && (!shown.again || isEdit(shown));
    this.element.classList.toggle("unsaid", isUnsaid);
    reply.hidden = isUnsaid;
    this.#paintText(old);
    this.#paintSpeaker();
    this.#paintNotes(isUnsaid);
    this.#paintTools();
    this.tick(Date.now());
  }

  #paintText(old) {
    const { answer, thoughts } = this.#parts;
    const { reasoning } = this.#shown;
    const text = textOf(this.#shown);
    const final = !isRunning(this.#shown);
    const ended = final && (!old || isRunning(old));
    if (ended || !old || text !== textOf(old)) this.#answer.update(text, final);
    if (ended || reasoning !== old?.reasoning) this.#thoughts.update(reasoning, final);
    answer.hidden = isBlank(text);
    thoughts.hidden = isBlank(reasoning);
  }

  #paintSpeaker() {
    const { provider, model } = this.#shown;
    setText(this.#parts.speaker, [provider, model].filter(Boolean).join(" · ") || "Answer");
    this.#parts.doubt.hidden = provider !== "local";
  }

  #paintNotes(isUnsaid) {
    const shown = this.#shown;
    const { delivery, deliveryText, deliveryRetry, deliveryEdit } = this.#parts;
    const isUnsent = shown.status === "unsent";
    const unsent = `Not sent. ${shown.error?.message ?? ""}`;
    delivery.hidden = !isUnsaid;
    deliveryRetry.hidden = deliveryEdit.hidden = !isUnsent;
    setText(deliveryText, isUnsent ? unsent : "Sending…");
    const { ending, endingText, endingRetry, endingCancel } = this.#parts;
    const note = isUnsent ? unsent : noteOf(shown, this.#version);
    ending.hidden = !note || isUnsaid;
    setText(endingText, note);
    // With a text the row below it has "Regenerate".
    const isBare = isBlank(shown.text) && !isRunning(shown);
    setText(endingRetry, shown.status === "completed" ? "Ask again" : "Retry");
    endingRetry.hidden = !isUnsent && !(this.#isLast && isBare);
    endingCancel.hidden = !isUnsent;
  }

  #paintTools() {
    const isOld = Boolean(this.#version);
    this.#toolbar.update(this.#shown, { isLast: this.#isLast, isOld });
    this.#rating.update(this.#turn.feedback);
    const { status, message } = this.#turn;
    this.#revise.hidden =
      isOld || isRunning(this.#turn) || status === "unsent" || message === undefined;
  }

  /** The button goes away with its click, and the focus must not. */
  #again(kind) {
    this.#parts.reply.focus({ preventScroll: true });
    this.#actions.again(this.#turn, kind);
  }

  #retry() {
    if (this.#turn.status !== "unsent") return this.#again("regenerate");
    this.#parts.reply.focus({ preventScroll: true });
    this.#actions.retry(this.#turn);
  }

  #withdraw() {
    this.#parts.reply.focus({ preventScroll: true });
    this.#actions.withdraw(this.#turn);
  }
}

/** The text in view: a continued answer begins with what was there, before its first word comes. */
function textOf(turn) {
  return isWaiting(turn) ? turn.begun : turn.text;
}

/** What is to be said about how a reply ended; nothing where all is well. */
function noteOf(turn, isOld) {
  const note = endingOf(turn);
  if (!isOld) return note;
  return `${note} An earlier version: the conversation goes on from the latest.`.trim();
}

function endingOf({ status, error, reason, finishReason, stopping, text }) {
  if (stopping && status === "running") return "Stopping…";
  switch (status) {
    case "failed":
      return error?.message ?? "The answer failed.";
    case "cancelled":
      return reason === "orphan" ? "Stopped: nobody was reading." : "Stopped.";
    case "interrupted":
      return "The server stopped before the end of this answer.";
    case "completed":
      if (!isBlank(text)) return CUT[finishReason] ?? "";
      return NO_TEXT[finishReason] ?? "The model ended without an answer.";
    default:
      return "";
  }
}

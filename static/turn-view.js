/** One turn on the page: the user's message, the reply, and what can be done with them. */

import { copyButton } from "./clipboard.js";
import { button, element, icon, setText } from "./dom.js";
import { MarkdownView } from "./markdown-view.js";
import { RatingView } from "./rating-view.js";
import { isRunning } from "./turn.js";

/** Shorter waits are not counted before the reader's eyes (ms). */
const PATIENCE = 2500;

export class TurnView {
  element;
  #actions;
  #turn;
  #isLast;
  #parts;
  #answer;
  #thoughts;
  #rating;
  #again;
  #revise;
  /** By this machine's clock: the server's may differ. */
  #since = Date.now();

  /**
   * @param {object} actions `retry(turn)`, `revise(turn)`, `edit(turn)` of an unsent one,
   *   `rate(turn, feedback)`
   */
  constructor(actions) {
    this.#actions = actions;
    this.#parts = parts();
    this.element = element("li", { class: "turn" }, this.#parts.question, this.#parts.reply);
    this.#answer = new MarkdownView(this.#parts.answer);
    this.#thoughts = new MarkdownView(this.#parts.thoughtsText);
    this.#rating = new RatingView((feedback) => actions.rate(this.#turn, feedback));
    this.#again = button({ class: "quiet", title: "Answer again" }, icon("retry"), () =>
      this.#actions.retry(this.#turn),
    );
    this.#revise = button({ class: "quiet", title: "Edit the message" }, icon("pencil"), () =>
      this.#actions.revise(this.#turn),
    );
    this.#parts.asked.prepend(this.#revise);
    this.#again.append(element("span", { class: "caption" }, "Again"));
    this.#parts.toolbar.append(
      copyButton("Copy the answer as markdown", () => this.#turn.text),
      ...this.#rating.buttons,
      this.#again,
    );
    this.#parts.reply.append(this.#rating.form);
  }

  /** Show a turn. `isLast` is the one that may be answered again. */
  update(turn, isLast) {
    if (turn === this.#turn && isLast === this.#isLast) return;
    const old = this.#turn;
    this.#turn = turn;
    this.#isLast = isLast;
    const { question, message, reply } = this.#parts;
    this.element.dataset.status = turn.status;
    question.hidden = turn.message === undefined;
    setText(message, turn.message ?? "");
    reply.hidden = turn.status === "sending" || turn.status === "unsent";
    this.#updateText(old);
    this.#updateSpeaker();
    this.#updateNotes();
    this.#updateToolbar();
    this.tick(Date.now());
  }

  /** Whether the reader waits for the first word, and `tick` is wanted every second. */
  get isWaiting() {
    return isRunning(this.#turn) && !this.#turn.text;
  }

  /** Say how long the wait has been. */
  tick(now) {
    const { waiting, waited } = this.#parts;
    waiting.hidden = !this.isWaiting || this.#turn.status === "sending";
    if (waiting.hidden) return;
    const elapsed = now - this.#since;
    const doing = this.#turn.reasoning ? "Thinking" : "Waiting for the first word";
    const seconds = Math.round(elapsed / 1000);
    setText(waited, elapsed > PATIENCE ? `${doing}, ${seconds} s` : "");
  }

  #updateText(old) {
    const { text, reasoning } = this.#turn;
    const { answer, thoughts } = this.#parts;
    const final = !isRunning(this.#turn);
    const ended = final && (!old || isRunning(old));
    if (ended || text !== old?.text) this.#answer.update(text, final);
    if (ended || reasoning !== old?.reasoning) this.#thoughts.update(reasoning, final);
    answer.hidden = !text;
    thoughts.hidden = !reasoning;
  }

  #updateSpeaker() {
    const { provider, model } = this.#turn;
    setText(this.#parts.speaker, [provider, model].filter(Boolean).join(" · ") || "Answer");
    this.#parts.doubt.hidden = provider !== "local";
  }

  #updateNotes() {
    const turn = this.#turn;
    const { delivery, deliveryText, ending, endingText, deliveryRetry, deliveryEdit } = this.#parts;
    delivery.hidden = turn.status !== "unsent" && turn.status !== "sending";
    deliveryRetry.hidden = deliveryEdit.hidden = turn.status !== "unsent";
    setText(
      deliveryText,
      turn.status === "unsent" ? `Not sent. ${turn.error?.message ?? ""}` : "Sending…",
    );
    deliveryRetry.onclick = () => this.#actions.retry(turn);
    deliveryEdit.onclick = () => this.#actions.edit(turn);
    const note = noteOf(turn);
    ending.hidden = !note;
    setText(endingText, note);
    this.#parts.endingRetry.hidden = !this.#isLast || turn.status === "completed";
    this.#parts.endingRetry.onclick = () => this.#actions.retry(turn);
  }

  #updateToolbar() {
    const turn = this.#turn;
    const { toolbar } = this.#parts;
    toolbar.hidden = isRunning(turn) || !turn.text;
    this.#again.hidden = !this.#isLast || turn.status !== "completed";
    this.#revise.hidden = !this.#isLast || isRunning(turn) || turn.status === "unsent";
    this.#rating.update(turn.feedback);
  }
}

/** What is to be said about how a reply ended; nothing where all is well. */
function noteOf({ status, error, reason, finishReason, stopping, text }) {
  if (stopping && status === "running") return "Stopping…";
  switch (status) {
    case "failed":
      return error?.message ?? "The answer failed.";
    case "cancelled":
      return reason === "orphan" ? "Stopped: nobody was reading." : "Stopped.";
    case "interrupted":
      return "The server stopped before the end of this answer.";
    case "completed":
      if (finishReason === "length") return "Cut off: the answer reached its longest length.";
      if (finishReason === "filter") return "The provider's filter ended this answer.";
      return text ? "" : "The model gave an empty answer.";
    default:
      return "";
  }
}

function parts() {
  const made = {
    message: element("div", { class: "bubble", dir: "auto" }),
    deliveryText: element("span"),
    deliveryRetry: element("button", { type: "button", class: "text" }, "Retry"),
    deliveryEdit: element("button", { type: "button", class: "text" }, "Edit"),
    speaker: element("span", { class: "speaker" }),
    doubt: element("span", { class: "doubt" }, "small model, often wrong"),
    thoughtsText: element("div", { class: "markdown", dir: "auto" }),
    answer: element("div", { class: "answer markdown", dir: "auto" }),
    waited: element("span"),
    endingText: element("span"),
    endingRetry: element("button", { type: "button", class: "text" }, "Retry"),
    toolbar: element("div", { class: "toolbar" }),
  };
  const dots = element("span", { class: "dots" }, element("i"), element("i"), element("i"));
  made.waiting = element("p", { class: "waiting" }, dots, made.waited);
  made.thoughts = element(
    "details",
    { class: "thoughts" },
    element("summary", {}, "Thoughts"),
    made.thoughtsText,
  );
  made.delivery = element(
    "p",
    { class: "delivery" },
    made.deliveryText,
    made.deliveryRetry,
    made.deliveryEdit,
  );
  made.ending = element("p", { class: "ending" }, made.endingText, made.endingRetry);
  made.asked = element("div", { class: "asked" }, made.message);
  made.question = element(
    "div",
    { class: "question" },
    element("h2", { class: "visually-hidden" }, "You"),
    made.asked,
    made.delivery,
  );
  made.reply = element(
    "div",
    { class: "reply" },
    element("h2", {}, made.speaker, made.doubt),
    made.thoughts,
    made.answer,
    made.waiting,
    made.ending,
    made.toolbar,
  );
  return made;
}

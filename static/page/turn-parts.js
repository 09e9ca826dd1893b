/**
 * The elements of one turn on the page, without what goes into them. This module knows nothing of
 * turns.
 */

import { element } from "./dom.js";

const textButton = (caption) => element("button", { type: "button", class: "text" }, caption);

/** Make them; `question` and `reply` hold all the others. */
export function turnParts() {
  const made = {
    message: element("div", { class: "bubble", dir: "auto" }),
    deliveryText: element("span"),
    deliveryRetry: textButton("Retry"),
    deliveryEdit: textButton("Edit"),
    speaker: element("span", { class: "speaker" }),
    doubt: element("span", { class: "doubt" }, "small model, often wrong"),
    thoughtsText: element("div", { class: "markdown", dir: "auto" }),
    answer: element("div", { class: "answer markdown", dir: "auto" }),
    waited: element("span"),
    endingText: element("span"),
    endingRetry: textButton("Retry"),
    endingCancel: textButton("Cancel"),
  };
  const dots = element("span", { class: "dots" }, element("i"), element("i"), element("i"));
  made.waiting = element("p", { class: "waiting" }, dots, made.waited);
  const summary = element("summary", {}, "Thoughts");
  made.thoughts = element("details", { class: "thoughts" }, summary, made.thoughtsText);
  made.delivery = element("p", { class: "delivery" });
  made.delivery.append(made.deliveryText, made.deliveryRetry, made.deliveryEdit);
  made.ending = element("p", { class: "ending" });
  made.ending.append(made.endingText, made.endingRetry, made.endingCancel);
  made.asked = element("div", { class: "asked" }, made.message);
  const you = element("h2", { class: "visually-hidden" }, "You");
  made.question = element("div", { class: "question" }, you, made.asked, made.delivery);
  // It takes the focus of a button that goes away.
  made.reply = element("div", { class: "reply", tabindex: "-1" });
  made.reply.append(element("h2", {}, made.speaker, made.doubt), made.thoughts, made.answer);
  made.reply.append(made.waiting, made.ending);
  return made;
}

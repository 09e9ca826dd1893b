/**
 * The chat page: the parts, and who hears of what. The server is reached through
 * `client/chatstream-client.js` only; the page's address says whose conversation is shown. This
 * module knows nothing of how a part works inside.
 *
 * The map, from the top. A row imports rows below it and its own, without circles; the client's
 * entry is all that the page knows of `client/` (`tests/test_static_layers.py`):
 *
 *     app                                         the parts, and who hears of what
 *     transcript turn-view turn-parts             the turns in the page
 *     toolbar version-switch rating-view          what can be done with a turn
 *     sidebar drawer composer provider-choice     the parts around them
 *     history sticky-scroll                       what moves the turns in view
 *     connection-dot announcer                    what the user is told
 *     markdown-view block-list code-block         an answer's text as elements
 *     clipboard dialog pieces dom                 elements, whatever they are for
 *     conversation outbox failure                 one conversation, live; no elements
 *     fold again turn                             what events make of it: plain values
 *     markdown parser                             text to safe DOM, by way of `vendor/`
 *     sections fences math emphasis               what stands where in a text
 *     table-row entities blank                    what a piece of it is
 *     place storage slices                        the address, what is kept, time
 */

import { originalOf } from "./again.js";
import { Announcer } from "./announcer.js";
import { ChatstreamClient } from "../client/chatstream-client.js";
import { Composer } from "./composer.js";
import { ConnectionDot } from "./connection-dot.js";
import { Conversation } from "./conversation.js";
import { confirmed } from "./dialog.js";
import { icon, setText } from "./dom.js";
import { Drawer } from "./drawer.js";
import { History } from "./history.js";
import { linkTo, placeOf } from "./place.js";
import { ProviderChoice } from "./provider-choice.js";
import { Sidebar } from "./sidebar.js";
import { StickyScroll } from "./sticky-scroll.js";
import { Transcript } from "./transcript.js";
import { isStoppable } from "./turn.js";

/** How long what went wrong stays in view (ms). */
const COMPLAINT = 8000;
/** Events after which the list of conversations reads differently. */
const LISTED = new Set(["turn.started", "conversation.renamed", "history.cleared"]);

const find = (selector) => document.querySelector(selector);

let { userId, conversationId } = placeOf(location.search);
let conversation = null;
let complaint = 0;

const client = new ChatstreamClient({ userId });
const announcer = new Announcer(find("#announcements"));
const transcript = new Transcript({
  again,
  revise,
  versions: (turn) => conversation.versions(turn),
  retry,
  edit,
  withdraw: (turn) => conversation.withdraw(turn),
  rate: (turn, feedback) => conversation.rate(turn, feedback),
});
const scroller = find(".scroller");
const older = new History(scroller, () => conversation.loadOlder(showOlder));
find(".column").prepend(older.element, transcript.element);
const scroll = new StickyScroll(scroller, find(".column"), (following) => {
  find(".latest").hidden = following;
});
const composer = new Composer(find(".composer"), {
  onSubmit: submit,
  onStop: stop,
  onRecall: recall,
});
const dot = new ConnectionDot(find(".connection"), () => conversation.reconnect());
const providers = new ProviderChoice({
  select: find(".providers"),
  name: find(".provider"),
  note: find(".note"),
});
const sidebar = new Sidebar(find(".sidebar"), {
  client,
  userId,
  onOpen: (id) => go(id),
  onErased: (id) => id === conversationId && go("default"),
  onTitle: showTitle,
  onFailure: complain,
});
const drawer = new Drawer({
  drawer: find(".sidebar"),
  opener: find(".open-sidebar"),
  closer: find(".close-sidebar"),
  backdrop: find(".backdrop"),
  page: find(".page"),
});

function open(id) {
  conversation?.close();
  conversationId = id;
  const handlers = { onState: show, onConnection, onEvent, onFailure: complain };
  conversation = new Conversation(client, { userId, conversationId }, handlers);
  show(conversation.state);
  scroll.toEnd();
  sidebar.open(id);
  composer.open(`${userId}/${id}`);
  composer.focus();
}

/** Open a conversation and write it into the page's address. */
function go(id) {
  drawer.close();
  if (id !== conversationId) history.pushState(null, "", linkTo({ userId, conversationId: id }));
  open(id);
}

function show(state) {
  const stoppable = state.turns.some(isStoppable);
  transcript.update(state.turns);
  announcer.update(state.turns);
  older.update(state.hasMore);
  composer.update({ running: conversation.isRunning, stoppable });
  find(".welcome").hidden = !conversation.loaded || state.turns.length > 0;
  find(".clear").hidden = state.turns.length === 0;
  if (state.title !== undefined) sidebar.retitle(conversationId, state.title);
}

function showOlder(change) {
  scroll.hold(transcript.element.children, () => {
    change();
    transcript.paint();
  });
}

function onConnection(state, error) {
  dot.update(state, error);
  if (state === "refused") complain(error.message);
  if (state === "live") loadLists();
}

function onEvent(event) {
  if (LISTED.has(event.type)) sidebar.refresh();
}

function loadLists() {
  sidebar.refresh();
  client.providers().then(
    ({ providers: known }) => providers.update(known),
    (error) => complain(`Who answers could not be read: ${error.message}`),
  );
}

function submit(text) {
  scroll.toEnd();
  return conversation.submit(text, providers.options);
}

function stop() {
  return conversation.stop();
}

/** Have a turn done again; anew, by whoever is chosen now. */
function again(turn, kind) {
  composer.focus();
  scroll.toEnd();
  const isOwn = kind === "continue" || providers.made(turn);
  conversation.again(turn, kind, isOwn ? undefined : providers.options);
}

function retry(turn) {
  composer.focus();
  return conversation.retry(turn);
}

/** Let the user change a message, and have it answered anew. */
function revise(turn) {
  const isLast = turn.turnId === conversation.state.turns.at(-1)?.turnId;
  const note = isLast
    ? "Your last message, to be answered anew"
    : "An earlier message: what came after it leaves the conversation";
  composer.edit(turn.message, note, (text) => {
    scroll.toEnd();
    conversation.revise(turn, text, providers.options);
  });
}

function recall() {
  const last = conversation.state.turns.at(-1);
  if (last?.message) (last.status === "unsent" ? edit : revise)(last);
}

/** Take a message that was not sent back into the box. */
function edit(turn) {
  conversation.withdraw(turn);
  if (turn.again) return revise({ ...originalOf(turn), message: turn.message });
  composer.fill(turn.message);
  composer.focus();
}

async function clear() {
  const sure = await confirmed({
    title: "Clear this conversation?",
    text: "Its messages are erased for good, from every device. A running answer is stopped.",
    action: "Clear",
  });
  if (sure) await conversation.clear();
  composer.focus();
}

function showTitle(title) {
  setText(find("h1"), title);
  document.title = `${title} · chatstream`;
}

function complain(text) {
  const place = find(".failure");
  setText(place, text);
  place.hidden = false;
  clearTimeout(complaint);
  complaint = setTimeout(() => (place.hidden = true), COMPLAINT);
}

function begin() {
  find(".clear").prepend(icon("trash"));
  find(".clear").addEventListener("click", clear);
  find(".latest").prepend(icon("latest"));
  find(".latest").addEventListener("click", () => scroll.toEnd());
  find(".suggestions").addEventListener("click", (event) => {
    if (!event.target.matches("button")) return;
    composer.fill(event.target.textContent);
    composer.focus();
  });
  addEventListener("popstate", () => {
    const { conversationId: id } = placeOf(location.search);
    if (id !== conversationId) open(id);
  });
  addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || event.isComposing || find("dialog[open]")) return;
    if (!drawer.close() && conversation.isRunning) stop();
  });
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible") sidebar.refresh();
  });
  open(conversationId);
}

begin();

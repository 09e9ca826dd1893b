/**
 * The user's conversations: links that open in this tab or another one; new, rename, delete. This
 * module knows nothing of turns or of what is said in them.
 */

import { newTurnId } from "../client/chatstream-client.js";
import { askedFor, confirmed } from "./dialog.js";
import { button, element, icon } from "./dom.js";
import { linkTo } from "./place.js";

const PAGE = 30;
const MAX_TITLE = 200;

export class Sidebar {
  #list;
  #more;
  #none;
  #fresh;
  #client;
  #place;
  #handlers;
  #conversations = [];
  #before;
  #current;
  #asked = 0;
  #loaded = false;
  #painted;

  /**
   * @param {Element} target
   * @param {{client: import("../client/chatstream-client.js").ChatstreamClient, userId: string,
   *   onOpen: (conversationId: string) => void, onErased: (conversationId: string) => void,
   *   onTitle: (title: string) => void, onFailure: (text: string) => void}} options
   */
  constructor(target, { client, userId, ...handlers }) {
    this.#client = client;
    this.#place = { userId };
    this.#handlers = handlers;
    this.#list = target.querySelector(".conversations");
    this.#more = target.querySelector(".more");
    this.#none = target.querySelector(".none");
    this.#fresh = target.querySelector(".new");
    this.#fresh.prepend(icon("plus"));
    this.#fresh.addEventListener("click", (event) => this.#renewed(event));
    this.#renew();
    this.#more.addEventListener("click", () => this.#loadMore());
    this.#list.addEventListener("click", (event) => this.#followed(event));
  }

  /** Mark the conversation that is shown. */
  open(conversationId) {
    this.#current = conversationId;
    this.#paint();
  }

  /** Read the list again, as far as it is shown. What cannot be read stays as it was. */
  async refresh() {
    const asked = ++this.#asked;
    const limit = Math.max(PAGE, this.#conversations.length);
    const page = await this.#client.conversations({ limit }).catch(() => null);
    if (page && asked === this.#asked) this.#show(page.conversations, page);
  }

  /** A title came with the conversation's own events. */
  retitle(conversationId, title) {
    const known = this.#conversations.find((one) => one.conversation_id === conversationId);
    if (!known || known.title === title) return;
    known.title = title;
    this.#paint();
  }

  async #loadMore() {
    try {
      const page = await this.#client.conversations({ limit: PAGE, before: this.#before });
      const known = new Set(this.#conversations.map((one) => one.conversation_id));
      const fresh = page.conversations.filter((one) => !known.has(one.conversation_id));
      this.#show([...this.#conversations, ...fresh], page);
    } catch (error) {
      this.#handlers.onFailure(`More conversations could not be loaded: ${error.message}`);
    }
  }

  #show(conversations, page) {
    this.#loaded = true;
    this.#conversations = conversations;
    this.#before = page.before;
    this.#more.hidden = !page.has_more;
    this.#paint();
  }

  #paint() {
    if (!this.#loaded) return;
    const shown = this.#conversations;
    const painted = JSON.stringify([this.#current, shown]);
    if (painted === this.#painted) return;
    this.#painted = painted;
    const focused = this.#focused();
    this.#list.replaceChildren(...shown.map((one) => this.#item(one)));
    focused?.();
    this.#none.hidden = shown.length > 0;
    const current = shown.find((one) => one.conversation_id === this.#current);
    if (current) this.#fresh.removeAttribute("aria-current");
    else this.#fresh.setAttribute("aria-current", "page");
    this.#handlers.onTitle(current ? current.title || "Untitled" : "New conversation");
  }

  /** How to focus again what has the focus, after the list was made anew. */
  #focused() {
    const item = document.activeElement?.closest("li");
    if (!item || !this.#list.contains(item)) return null;
    const { conversation } = item.querySelector("a").dataset;
    const index = [...item.children].indexOf(document.activeElement);
    return () => {
      for (const link of this.#list.querySelectorAll("a")) {
        if (link.dataset.conversation === conversation) link.parentElement.children[index]?.focus();
      }
    };
  }

  #item(conversation) {
    const { conversation_id: conversationId, title } = conversation;
    const name = title || "Untitled";
    const link = element(
      "a",
      {
        href: linkTo({ ...this.#place, conversationId }),
        title: name,
        dir: "auto",
        "aria-current": conversationId === this.#current ? "page" : null,
      },
      name,
    );
    link.dataset.conversation = conversationId;
    const rename = button(
      { class: "quiet", title: "Rename", "aria-label": `Rename ${name}` },
      icon("pencil"),
      () => this.#rename(conversation),
    );
    const erase = button(
      { class: "quiet", title: "Delete", "aria-label": `Delete ${name}` },
      icon("trash"),
      () => this.#erase(conversation),
    );
    return element("li", {}, link, rename, erase);
  }

  #followed(event) {
    const link = event.target.closest("a");
    if (!link || opensElsewhere(event)) return;
    event.preventDefault();
    this.#handlers.onOpen(link.dataset.conversation);
  }

  /** The next conversation has its id before it begins, so that its link can be opened anywhere. */
  #renew() {
    this.#fresh.dataset.conversation = newTurnId();
    this.#fresh.href = linkTo({
      ...this.#place,
      conversationId: this.#fresh.dataset.conversation,
    });
  }

  #renewed(event) {
    if (!opensElsewhere(event)) {
      event.preventDefault();
      this.#handlers.onOpen(this.#fresh.dataset.conversation);
    }
    this.#renew();
  }

  async #rename({ conversation_id: conversationId, title }) {
    const wanted = await askedFor({
      title: "Rename the conversation",
      label: "Title",
      value: title,
      action: "Rename",
      maxLength: MAX_TITLE,
    });
    if (!wanted || wanted === title) return;
    await this.#do("renamed", () => this.#client.rename(wanted, conversationId));
  }

  async #erase({ conversation_id: conversationId, title }) {
    const sure = await confirmed({
      title: "Delete the conversation?",
      text: `“${title || "Untitled"}” is erased for good, from every device.`,
      action: "Delete",
    });
    if (!sure) return;
    const done = await this.#do("deleted", () => this.#client.erase(conversationId));
    if (done) this.#handlers.onErased(conversationId);
  }

  async #do(what, call) {
    try {
      await call();
      await this.refresh();
      return true;
    } catch (error) {
      this.#handlers.onFailure(`The conversation could not be ${what}: ${error.message}`);
      return false;
    }
  }
}

function opensElsewhere(event) {
  return event.ctrlKey || event.metaKey || event.shiftKey;
}

/**
 * An answer while it grows. Finished sections are left alone, with the reader's selection in them;
 * only the tail is parsed again. The end result is that of rendering the whole text at once.
 *
 * A long text is rendered in slices: `target` has `aria-busy` until all of it is there.
 *
 * This module knows nothing of turns, and no grammar: that is markdown.js's, the elements
 * block-list.js's.
 */

import { BlockList } from "./block-list.js";
import { blocks, completed, define, defines } from "./markdown.js";
import { sections } from "./sections.js";
import { isOver, later, never } from "./slices.js";

/** The last sections may still change their kind when more text comes. */
const OPEN_SECTIONS = 2;
/** So much is rendered at once, however long the task has worked (characters). */
const LEAST = 16_384;
/** What is not parsed costs so much less. */
const CHEAP = 1 / 32;
/** A part has so much text (characters), or so many blocks, or a little more. */
const PART = 4096;
const PART_BLOCKS = 64;
const NOTHING = { sections: 0, blocks: 0, part: { number: 0, place: 0, at: 0 } };
/** In so many sections, of so much text, reference links are looked for. */
const MOST_LINKS = 500;
const MOST_LINKS_TEXT = 65_536;
/** Where more stands behind a fence, the code is shown as it was written (characters). */
const LONGEST_INFO = 500;

export class MarkdownView {
  #target;
  #least;
  #blocks;
  /** What each section was parsed to. */
  #parsed = [];
  /** So many sections and blocks are finished; they were made of `#frozenText`. */
  #frozen = NOTHING;
  #frozenText = "";
  #links = Object.create(null);
  #job;
  #goOn = () => this.#work(0);

  /** @param {boolean} isPatient whether nothing need be there when `update` returns */
  constructor(target, isPatient = false) {
    this.#target = target;
    this.#least = isPatient ? 0 : LEAST;
    this.#blocks = new BlockList(target);
  }

  /** Show `text`. It is `final` when no more will come. */
  update(text, final) {
    if (text.includes("\r")) text = text.replace(/\r\n?/g, "\n");
    // HTML has no such character, and would drop it.
    if (text.includes("\0")) text = text.replaceAll("\0", "\ufffd");
    if (final || !text.startsWith(this.#frozenText)) this.#thaw();
    const place = this.#frozenText.length;
    const first = this.#frozen.sections;
    const list = sections(text.slice(place), !final, first);
    this.#job = { text, list, final, first, place, ...this.#linksOf(list) };
    const { blocks: at, part } = this.#frozen;
    Object.assign(this.#job, { next: 0, at, part, done: 0 });
    this.#work(this.#least);
  }

  #thaw() {
    this.#frozen = NOTHING;
    this.#frozenText = "";
    this.#links = Object.create(null);
  }

  /** Definitions in open sections may still change: only frozen ones are kept. */
  #linksOf(list) {
    const links = Object.assign(Object.create(null), this.#links);
    const defining = list.filter(({ raw, code }) => !code && defines(raw)).slice(0, MOST_LINKS);
    let size = 0;
    for (const { raw } of defining) {
      size += raw.length;
      if (size <= MOST_LINKS_TEXT) define(raw, links);
    }
    return { links, linksKey: JSON.stringify(links) };
  }

  #work(least) {
    const job = this.#job;
    const { list } = job;
    while (job.next < list.length && (job.done < least || !isOver())) this.#section(job);
    const isDone = job.next === list.length;
    this.#target.setAttribute("aria-busy", String(!isDone));
    if (!isDone) return later(this.#goOn);
    never(this.#goOn);
    this.#blocks.cutOff(job.at);
    this.#parsed.length = job.first + job.next;
  }

  #section(job) {
    const { list, final, first, next } = job;
    const section = list[next];
    const isLast = !final && next === list.length - 1;
    const { made } = (this.#parsed[first + next] = this.#parse(job, section, isLast));
    job.part = partFor(job);
    for (const block of made) this.#blocks.put(job.at++, block, job.part.number);
    job.place += section.raw.length;
    job.next++;
    if (!final && next < list.length - OPEN_SECTIONS) this.#freeze(job, section);
  }

  #parse(job, section, isLast) {
    const { first, next, links, linksKey } = job;
    const known = this.#parsed[first + next];
    const key = section.raw.includes("[") ? linksKey : "";
    const isSame = known?.section.raw === section.raw && known.isLast === isLast;
    if (isSame && known.section.isRest === section.isRest && known.key === key) return known;
    const found = made(section, links, isLast, known);
    job.done += section.raw.length * (found[0]?.kind === "html" ? 1 : CHEAP);
    return { section, isLast, key, made: found };
  }

  #freeze({ text, place, at, part }, { raw, code }) {
    if (!code && defines(raw)) define(raw, this.#links);
    this.#frozenText = text.slice(0, place);
    this.#frozen = { sections: this.#frozen.sections + 1, blocks: at, part };
  }
}

/** The part that a section belongs to: the one before it, until that is full. */
function partFor({ part, place, at }) {
  const isFull = place - part.place >= PART || at - part.at >= PART_BLOCKS;
  return isFull ? { number: part.number + 1, place, at } : part;
}

/** The blocks of a section; see `BlockList`. */
function made({ raw, code, isRest }, links, isLast, known) {
  if (code && code.info.length <= LONGEST_INFO) {
    const text = code.text.replace(/\n?$/, "\n");
    return [{ kind: "code", info: code.info, text }];
  }
  if (!raw.trim()) return [];
  const html = code || isRest || staysDear(raw, isLast, known) ? null : parsed(raw, links, isLast);
  return html?.map((text) => ({ kind: "html", text })) ?? [{ kind: "plain", text: raw }];
}

function parsed(raw, links, isLast) {
  return blocks(isLast ? completed(raw) : raw, links, isLast);
}

/** While it grows, what is too dear to be parsed is not tried again and again. */
function staysDear(raw, isLast, known) {
  const wasDear = isLast && known?.isLast && known.made[0]?.kind === "plain";
  return wasDear && raw.startsWith(known.section.raw);
}

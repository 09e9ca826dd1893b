/**
 * Where a cursor stands after an event: what a follower at that place has not missed, and will
 * not get twice. `caught_up` tells that nothing lies between the last event and its `last_id`.
 */
export function placeAfter(event, last) {
  if (event.type === "ready") return event.id;
  const place = event.type === "caught_up" ? event.last_id : event.id;
  return place === undefined || place <= last ? last : place;
}

/** What nobody follows any more is kept for so long: who goes from one to another needs it (ms). */
const LINGER = 1_000;

/**
 * Follows, for all tabs of a browser, what they ask for, over one transport; made by the tab that
 * holds the lock. Each event is told with the places `before` and `at` it, so that a tab can take
 * it exactly when it has all that came before: events may be joined on their way (CONTRACT
 * section 2, promise 4), and an id alone does not tell where one begins.
 */
export class Leader {
  #channel;
  #transport;
  #patience;
  /** By conversation id: {at, ready, live, heard, followers, stop}. */
  #wires = new Map();
  #tabs = new Set();
  #over = new AbortController();

  /**
   * @param {string} name of the channel, and with a tab's name behind it, of that tab's lock
   * @param {object} transport
   * @param {number} patience how old the last event of a stream may be when a tab joins it (ms)
   */
  constructor(name, transport, patience) {
    this.#transport = transport;
    this.#patience = patience;
    this.#channel = new BroadcastChannel(name);
    this.#channel.onmessage = ({ data }) => {
      if (data.join) this.#join(data.join);
      else if (data.leave) this.#leave(data.leave, (one) => one === data.follower);
      if (data.tab && !this.#tabs.has(data.tab)) this.#attend(name, data.tab);
    };
    globalThis.addEventListener?.("online", () => this.#renew(), { signal: this.#over.signal });
    this.#channel.postMessage({ lead: true });
  }

  close() {
    this.#over.abort();
    this.#channel.close();
    for (const wire of this.#wires.values()) wire.stop.abort();
    this.#wires.clear();
  }

  #join({ conversationId, after, follower }) {
    let wire = this.#wires.get(conversationId);
    if (wire && Date.now() - wire.heard > this.#patience) {
      wire.stop.abort();
      wire = this.#open(conversationId, wire.at, wire.followers);
    }
    wire ??= this.#open(conversationId, after, new Set());
    wire.followers.add(follower);
    const { at, ready, live } = wire;
    const tell = (event) => this.#tell(conversationId, { to: follower, event, before: at, at });
    tell(ready && { ...ready, id: at });
    if (live) tell({ type: "caught_up", conversation_id: conversationId, last_id: at });
  }

  #leave(conversationId, leaves) {
    const wire = this.#wires.get(conversationId);
    if (!wire) return;
    for (const follower of wire.followers) if (leaves(follower)) wire.followers.delete(follower);
    setTimeout(() => {
      const left = this.#wires.get(conversationId);
      if (!left || left.followers.size) return;
      this.#wires.delete(conversationId);
      left.stop.abort();
    }, LINGER);
  }

  /** A tab that crashed does not say that it leaves, but its lock comes free. */
  #attend(name, tab) {
    this.#tabs.add(tab);
    const gone = () => {
      this.#tabs.delete(tab);
      const ofTab = (follower) => follower.startsWith(tab);
      for (const conversationId of [...this.#wires.keys()]) this.#leave(conversationId, ofTab);
    };
    navigator.locks.request(`${name} ${tab}`, { signal: this.#over.signal }, gone).catch(() => {});
  }

  #open(conversationId, after, followers) {
    const stop = new AbortController();
    const wire = { at: after, ready: undefined, live: false, heard: Date.now(), followers, stop };
    this.#wires.set(conversationId, wire);
    const take = (event) => {
      if (!stop.signal.aborted) this.#take(conversationId, wire, event);
    };
    this.#transport.follow(conversationId, after, take, stop.signal).catch((error) => {
      if (!stop.signal.aborted) this.#fail(conversationId, wire, error);
    });
    return wire;
  }

  #take(conversationId, wire, event) {
    const before = wire.at;
    wire.heard = Date.now();
    wire.at = placeAfter(event, before);
    if (event.type === "ready") wire.ready = event;
    if (event.type === "caught_up") wire.live = true;
    this.#tell(conversationId, { event, before, at: wire.at });
  }

  /** All tabs hear of it, and come back at the same moment: `dice` is thrown for all. */
  #fail(conversationId, wire, error) {
    wire.stop.abort();
    this.#wires.delete(conversationId);
    error.dice ??= Math.random();
    const down = { ...error, message: error.message };
    this.#tell(conversationId, { down });
  }

  /** The network is another one: what was open may be dead without a word. */
  #renew() {
    for (const [conversationId, wire] of [...this.#wires]) {
      wire.stop.abort();
      this.#open(conversationId, wire.at, wire.followers);
    }
  }

  #tell(conversationId, message) {
    this.#channel.postMessage({ conversationId, ...message });
  }
}

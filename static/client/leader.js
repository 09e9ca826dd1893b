/**
 * What the tab that leads does for all tabs, and the rule by which a place in the log moves. This
 * module knows nothing of transports or of what becomes of an event.
 */

/**
 * Where a cursor stands after an event: what a follower at that place has not missed, and will
 * not get twice. `caught_up` tells that nothing lies between the last event and its `last_id`. A
 * cursor that is no good stays (`ready` has no id) until the `reset`, which goes on where the
 * stream started: who is cut off between the two is reset again.
 */
export function placeAfter(event, last, start) {
  if (event.type === "ready") return event.id ?? last;
  if (event.type === "reset") return start;
  const place = event.type === "caught_up" ? event.last_id : event.id;
  return place === undefined || place <= last ? last : place;
}

/** What nobody follows any more is kept for up to so long: most are back at once (ms). */
const LINGER = 1_000;

/**
 * Follows, for all tabs of a browser, what they ask for, over one line; made by the tab that
 * holds the lock. Each event is told with the places `before` and `at` it, so that a tab can take
 * it exactly when it has all that came before: events may be joined on their way
 * (`protocol.md`, section 2, promise 4), and an id alone does not tell where one begins.
 */
export class Leader {
  #channel;
  #line;
  /** By conversation id: {at, ready, isLive, followers, stop}. */
  #wires = new Map();
  #tabs = new Set();
  #over = new AbortController();

  /** `name`: of the channel, and with a tab's name behind it, of that tab's lock. */
  constructor(name, line) {
    this.#line = line;
    this.#channel = new BroadcastChannel(name);
    this.#channel.onmessage = ({ data }) => {
      if (data.join) this.#join(data.join);
      if (data.leave) this.#leave(data.leave);
      if (data.tab && !this.#tabs.has(data.tab)) this.#attend(name, data.tab);
    };
    this.#channel.postMessage({ lead: true });
  }

  close() {
    this.#over.abort();
    this.#channel.close();
    for (const { stop } of this.#wires.values()) stop.abort();
  }

  #join({ conversationId, after, follower }) {
    this.#line.revive();
    const wire = this.#wires.get(conversationId) ?? this.#open(conversationId, after);
    wire.followers.add(follower);
    const { at, ready, isLive } = wire;
    const tell = (event) => this.#tell(conversationId, { to: follower, event, before: at, at });
    tell(ready && { ...ready, id: at });
    if (isLive) tell({ type: "caught_up", conversation_id: conversationId, last_id: at });
  }

  /** Those leave whose names begin so: one follower, or all of a tab. */
  #leave(name) {
    for (const { followers } of this.#wires.values()) {
      for (const one of followers) if (one.startsWith(name)) followers.delete(one);
    }
    setTimeout(() => {
      for (const [conversationId, { followers, stop }] of this.#wires) {
        if (followers.size) continue;
        this.#wires.delete(conversationId);
        stop.abort();
      }
    }, LINGER);
  }

  /** A tab that crashed does not say that it leaves, but its lock comes free. */
  #attend(name, tab) {
    this.#tabs.add(tab);
    const gone = () => {
      this.#tabs.delete(tab);
      this.#leave(tab);
    };
    navigator.locks.request(`${name} ${tab}`, { signal: this.#over.signal }, gone).catch(() => {});
  }

  #open(conversationId, after) {
    const stop = new AbortController();
    const wire = { at: after, ready: undefined, isLive: false, followers: new Set(), stop };
    this.#wires.set(conversationId, wire);
    const take = (event) => {
      const before = wire.at;
      wire.at = placeAfter(event, before, wire.ready?.last_id);
      if (event.type === "ready") wire.ready = event;
      if (event.type === "caught_up") wire.isLive = true;
      this.#tell(conversationId, { event, before, at: wire.at });
    };
    const end = (error) => {
      if (stop.signal.aborted) return;
      this.#wires.delete(conversationId);
      this.#tell(conversationId, { down: { ...error, message: error.message } });
    };
    this.#line.follow(conversationId, () => wire.at, take, stop.signal).catch(end);
    return wire;
  }

  #tell(conversationId, message) {
    this.#channel.postMessage({ conversationId, ...message });
  }
}

/**
 * Long work in slices, so that the page stays quick: between two of them it is the reader's. This
 * module knows nothing of what the work is.
 */

/** A task has so long (ms). */
const TIME = 25;

const waiting = new Set();
const channel = new MessageChannel();
let began;

/** Say whether this task has worked long enough. */
export function isOver() {
  begin();
  return performance.now() - began > TIME;
}

function begin() {
  if (began !== undefined) return;
  began = performance.now();
  channel.port2.postMessage(null);
}

/** Have `job` called in a task to come; the one asked for last goes first. */
export function later(job) {
  waiting.delete(job);
  waiting.add(job);
  begin();
}

/** Forget it. */
export function never(job) {
  waiting.delete(job);
}

channel.port1.onmessage = () => {
  began = undefined;
  while (waiting.size && !isOver()) {
    const job = [...waiting].at(-1);
    waiting.delete(job);
    job();
  }
  if (waiting.size) begin();
};

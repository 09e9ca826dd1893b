/**
 * Events of the window and the document, where there are any. This module knows nothing of what is
 * done at them.
 */

/**
 * Call `act` at these events of the window or the document, which it meets on their way down;
 * until `signal`, if any. Where there is no page they never come.
 */
export function onPage(act, names, signal) {
  for (const name of names) globalThis.addEventListener?.(name, act, { capture: true, signal });
}

/**
 * The browser's storage, where it exists: private windows and strict settings throw instead. This
 * module knows nothing of what is kept.
 */

/** Read what was kept under `key`; null where there is nothing. */
export function stored(key, storage = "localStorage") {
  try {
    return globalThis[storage].getItem(`chatstream:${key}`);
  } catch {
    return null;
  }
}

/** Keep text under `key`; nothing removes it. `sessionStorage` is this tab's own. */
export function store(key, value, storage = "localStorage") {
  try {
    if (value) globalThis[storage].setItem(`chatstream:${key}`, value);
    else globalThis[storage].removeItem(`chatstream:${key}`);
  } catch {
    // What cannot be kept is only a convenience: the page works without.
  }
}

/** localStorage, where it exists: private windows and strict settings throw instead. */

export function stored(key) {
  try {
    return localStorage.getItem(`chatstream:${key}`);
  } catch {
    return null;
  }
}

export function store(key, value) {
  try {
    if (value) localStorage.setItem(`chatstream:${key}`, value);
    else localStorage.removeItem(`chatstream:${key}`);
  } catch {
    // What cannot be kept is only a convenience: the page works without.
  }
}

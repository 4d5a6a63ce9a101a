// Keys for the whole page. They can be switched off, since they get in the way of some who speak to their computer.

const TYPING = "input, textarea, select, [contenteditable]";

// enabled(): whether they count now. actions: by key, as in KeyboardEvent.key.
export function startShortcuts(enabled, actions) {
  addEventListener("keydown", (event) => {
    if (!enabled() || event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
    if (event.target instanceof Element && event.target.closest(TYPING)) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const action = actions[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
}

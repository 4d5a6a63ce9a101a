// Colours of the canvases, taken from the style sheet, so that light, dark and a user's own style reach them too.

const NAMES = ["ink", "muted", "faint", "panel", "wave", "speech", "speech-edge", "probability", "threshold", "mark", "unread", "heat-0", "heat-1", "heat-2", "heat-3"];

let colours = null;
const listeners = new Set();

// The colours by name, as strings that a canvas understands.
export function theme() {
  if (!colours) {
    const style = getComputedStyle(document.documentElement);
    colours = Object.fromEntries(NAMES.map((name) => [name, style.getPropertyValue(`--${name}`).trim() || "#888"]));
    colours.font = style.getPropertyValue("--font").trim() || "sans-serif";
  }
  return colours;
}

// Calls back when the colours have changed.
export function onTheme(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function changed() {
  colours = null;
  for (const listener of listeners) listener();
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
matchMedia("(prefers-contrast: more)").addEventListener("change", changed);

const FORMS = ["auto", "light", "dark"];

// Chooses light or dark; "auto" follows the system.
export function chooseTheme(form) {
  document.documentElement.dataset.theme = FORMS.includes(form) ? form : "auto";
  changed();
}

const rgb = (colour) => {
  const hex = colour.replace("#", "");
  const full = hex.length === 3 ? [...hex].map((c) => c + c).join("") : hex;
  return [0, 2, 4].map((at) => parseInt(full.slice(at, at + 2), 16));
};

// 256 colours from the quietest to the loudest, as red, green, blue, one after the other.
export function heat() {
  const stops = [0, 1, 2, 3].map((n) => rgb(theme()[`heat-${n}`]));
  const table = new Uint8ClampedArray(256 * 3);
  for (let n = 0; n < 256; n += 1) {
    const place = (n / 255) * (stops.length - 1);
    const stop = Math.min(stops.length - 2, Math.floor(place));
    for (let c = 0; c < 3; c += 1) {
      table[3 * n + c] = stops[stop][c] + (stops[stop + 1][c] - stops[stop][c]) * (place - stop);
    }
  }
  return table;
}

export const calm = matchMedia("(prefers-reduced-motion: reduce)");

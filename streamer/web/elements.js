// Small helpers for the page's elements.

// An element with attributes; those that begin with "on" are listeners. Text stays text, whatever it contains.
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

// Saves text as a file.
export function saveFile(name, type, text) {
  const link = element("a", { download: name, href: URL.createObjectURL(new Blob([text], { type })) });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// Calls a function when a series of calls has come to rest.
export function settled(work, ms) {
  let timer = null;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...given), ms);
  };
}

// What the page remembers from visit to visit; a browser that forbids it is no error. Never the key.
export const memory = {
  get(name, otherwise) {
    try {
      const text = localStorage.getItem(`wavlm-live.${name}`);
      return text === null ? otherwise : JSON.parse(text);
    } catch {
      return otherwise;
    }
  },
  set(name, value) {
    try {
      localStorage.setItem(`wavlm-live.${name}`, JSON.stringify(value));
    } catch {
      /* kept for this visit alone */
    }
  },
};

// Milliseconds and other figures as text; a dash where there is none.
export const figure = (value, unit = "", digits = 0) =>
  value === null || value === undefined || Number.isNaN(value) ? "–" : `${Number(value).toFixed(digits)}${unit ? ` ${unit}` : ""}`;

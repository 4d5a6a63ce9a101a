// The dashboard: puts lanes, transcript, settings and figures together.

import { memory } from "./elements.js";
import { Figures } from "./figures.js";
import { Lane, address } from "./lane.js";
import { LanePanel } from "./lane_panel.js";
import { Latency } from "./latency.js";
import { Settings, onTheWire } from "./settings.js";
import { startShortcuts } from "./shortcuts.js";
import { Microphone, Recording } from "./sources.js";
import { Transcript } from "./transcript.js";
import { Watch } from "./watching.js";

const MOST_LANES = 16;
const find = (selector) => document.querySelector(selector);
const parts = (names) => Object.fromEntries(names.map((name) => [name, find(`#${name}`)]));

const settings = new Settings(find("#settings"));
const latency = new Latency();
const panels = new Set();
const lanes = () => [...panels].map((panel) => panel.lane);
const transcript = new Transcript({
  list: find("#finals"),
  search: find("#search"),
  save: find("#save"),
  note: find("#transcript-note"),
  empty: find("#transcript-empty"),
  count: find("#search-count"),
});
const figures = new Figures(parts(["server", "latency", "split", "factor", "sessions", "batch", "dropped"]), latency, lanes, () => settings.key);
let greeting = null; // the last `ready` of a server

const wire = () => onTheWire(settings.values, settings.greeting(greeting));

function note(text) {
  find("#note").textContent = text;
}

function show(lane) {
  const panel = new LanePanel(lane, {
    seconds: settings.values.span_s,
    onClose: (closed) => {
      panels.delete(closed);
      transcript.forget(lane);
      find("#lanes-empty").hidden = panels.size > 0;
      find("#microphone-start").focus();
    },
  });
  panel.dispatchRestart = () => again(panel);
  panels.add(panel);
  find("#lanes").prepend(panel.root);
  find("#lanes-empty").hidden = true;
  lane.addEventListener("final", (event) => transcript.add(lane, event.detail));
  lane.addEventListener("state", () => greet(lane));
  return panel;
}

function greet(lane) {
  if (lane.ready && lane.ready !== greeting) {
    greeting = lane.ready;
    if (!settings.models.length) settings.offer({ model: greeting.model });
    settings.listMicrophones();
  }
}

// A lane for a source; at most so many that a page can draw.
function begin(source) {
  if (panels.size >= MOST_LANES) {
    note(`The page shows ${MOST_LANES} lanes at most; remove one first.`);
    return null;
  }
  note("");
  const lane = new Lane({ source, key: settings.key, settings: wire(), model: settings.model, latency });
  show(lane);
  lane.start();
  return lane;
}

// What has ended begins anew, in the same place on the page.
function again(panel) {
  const { source } = panel.lane;
  panel.close();
  begin(source.file ? new Recording(source.file, settings.values.audible) : new Microphone(settings.values.microphone));
}

function toggleMicrophone() {
  const panel = [...panels].find(({ lane }) => lane.source instanceof Microphone);
  if (!panel) begin(new Microphone(settings.values.microphone));
  else if (panel.lane.running) panel.lane.stop();
  else again(panel);
}

function openFiles(files) {
  for (const file of files) begin(new Recording(file, settings.values.audible));
}

settings.addEventListener("server", () => {
  for (const lane of lanes()) if (!lane.watched) lane.change(wire(), settings.model);
});
settings.addEventListener("page", ({ detail }) => {
  if (detail === "span_s" || detail === "all") for (const panel of panels) panel.view.show(Number(settings.values.span_s));
  if (detail === "microphone") {
    const lane = lanes().find(({ source }) => source instanceof Microphone);
    if (lane?.running) lane.useSource(new Microphone(settings.values.microphone));
  }
});

// The server says what it has; an older one does not, then the first greeting does.
async function askServer() {
  try {
    const answer = await fetch("/v1/dashboard", { cache: "no-store" });
    if (answer.ok) settings.offer(await answer.json());
  } catch {
    note("");
  }
}

let watch = null;
function toggleWatch() {
  const button = find("#watch");
  const stop = () => {
    watch?.close();
    watch = null;
    button.textContent = "Watch all sessions";
  };
  if (watch?.socket) {
    stop();
    note("");
    return;
  }
  stop();
  button.textContent = "Stop watching";
  watch = new Watch({
    url: address("/v1/watch"),
    key: settings.key,
    onLane: (lane) => {
      if (panels.size < MOST_LANES) show(lane);
    },
    onEnd: (lane) => setTimeout(() => [...panels].find((panel) => panel.lane === lane)?.close(), 5000),
    onState: (text) => {
      note(text);
      if (text.startsWith("Not")) stop();
    },
  });
}

function toggleSettings(open) {
  const panel = find("#settings-panel");
  panel.hidden = open === undefined ? !panel.hidden : !open;
  find("#settings-toggle").setAttribute("aria-expanded", String(!panel.hidden));
  memory.set("panel", !panel.hidden);
  if (!panel.hidden) settings.listMicrophones();
}

find("#microphone-start").addEventListener("click", toggleMicrophone);
find("#file-open").addEventListener("click", () => find("#file").click());
find("#file").addEventListener("change", (event) => {
  openFiles(event.target.files);
  event.target.value = "";
});
find("#watch").addEventListener("click", toggleWatch);
find("#settings-toggle").addEventListener("click", () => toggleSettings());
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  openFiles(event.dataTransfer.files);
});
startShortcuts(() => settings.values.shortcuts, {
  m: toggleMicrophone,
  o: () => find("#file").click(),
  s: () => toggleSettings(),
  f: () => lanes().forEach((lane) => lane.connection?.flush()),
  "/": () => find("#search").focus(),
});

// One clock for all lanes; a hidden page draws nothing.
const frames = { drawn: 0, ms: 0 }; // for whoever measures
function frame(now) {
  const began = performance.now();
  for (const panel of panels) panel.frame(now);
  frames.drawn += 1;
  frames.ms += performance.now() - began;
  requestAnimationFrame(frame);
}
requestAnimationFrame(frame);

toggleSettings(innerWidth >= 1200 && memory.get("panel", false));
askServer();
window.wavlmLive = { panels, transcript, settings, latency, figures, frames, begin, show };

// The settings panel: what the user chose, as the page needs it and as it goes to the server.

import { memory, settled } from "./elements.js";
import { chooseTheme } from "./theme.js";

export const DEFAULTS = {
  microphone: "",
  model: "",
  context: "default",
  left_ms: "",
  chunk_ms: "",
  right_ms: "",
  beam: 0,
  hotwords: "",
  silence_ms: 800,
  max_segment_s: 20,
  threshold: 0.5,
  speakers: false,
  span_s: 10,
  theme: "auto",
  audible: true,
  shortcuts: true,
};
const ON_THE_SERVER = ["model", "context", "left_ms", "chunk_ms", "right_ms", "beam", "hotwords", "silence_ms", "max_segment_s", "threshold", "speakers"];
const FRAME_MS = 20;

// "new york:2" is a phrase and the bonus of its letters.
function hotwordsOf(text) {
  return text
    .split(/[\n,]/)
    .map((line) => line.trim())
    .filter(Boolean)
    .map((line) => {
      const found = /^(.*?):\s*(-?[\d.]+)$/.exec(line);
      return found ? [found[1].trim(), Number(found[2])] : line;
    });
}

// The settings as the protocol's `start` and `settings` messages have them.
//   ready: the server's greeting, whose context fills in the durations that were left open; null before the first one
export function onTheWire(values, ready = null) {
  const hotwords = hotwordsOf(values.hotwords);
  const beam = Number(values.beam) || (hotwords.length ? 16 : 0);
  const start = Number(values.threshold);
  const wire = {
    activity: true,
    partial_hop_ms: 100,
    endpoint: { silence_ms: Number(values.silence_ms), max_segment_s: Number(values.max_segment_s) },
    speech: { start_probability: start, stay_probability: Math.round(start * 70) / 100 },
    decoding: beam ? { method: "beam", beam_width: beam, hotwords } : { method: "greedy", hotwords: [] },
  };
  if (values.speakers) wire.speakers = { enabled: true };
  const durations = [values.left_ms, values.chunk_ms, values.right_ms];
  if (durations.some((ms) => ms !== "")) {
    const own = (ready?.context ?? "250,32,8").split(",");
    wire.context = durations.map((ms, n) => (ms === "" ? own[n] : Math.round(Number(ms) / FRAME_MS))).join(",");
  } else if (values.context && values.context !== "default") {
    wire.context = values.context;
  }
  return wire;
}

export class Settings extends EventTarget {
  // form: the panel. Events: "server" when what the server does changes, "page" for the rest (detail: the name).
  constructor(form) {
    super();
    this.form = form;
    this.models = []; // {model, contexts, speakers} of each that the server offers, its default first
    this.values = { ...DEFAULTS, ...memory.get("settings", {}) };
    for (const [name, value] of Object.entries(this.values)) this.#put(name, value);
    const told = settled(() => this.dispatchEvent(new Event("server")), 400);
    form.addEventListener("input", (event) => this.#changed(event.target, told));
    form.addEventListener("submit", (event) => event.preventDefault());
    form.querySelector("#defaults")?.addEventListener("click", () => this.#defaults(told));
    chooseTheme(this.values.theme);
    navigator.mediaDevices?.addEventListener?.("devicechange", () => this.listMicrophones());
  }

  #put(name, value) {
    const field = this.form.elements[name];
    if (!field) return;
    if (field.type === "checkbox") field.checked = value;
    else field.value = value;
    this.#shown(field);
  }

  // A slider says its value in words beside it.
  #shown(field) {
    const output = this.form.querySelector(`output[for="${field.id}"]`);
    if (output) output.textContent = field.id === "threshold" ? `${Math.round(field.value * 100)}%` : `${field.value} s`;
  }

  #changed(field, told) {
    const { name } = field;
    if (!(name in DEFAULTS)) return;
    this.#shown(field);
    field.setAttribute("aria-invalid", String(!field.checkValidity()));
    if (!field.checkValidity()) return;
    this.values[name] = field.type === "checkbox" ? field.checked : field.type === "range" ? Number(field.value) : field.value;
    if (name === "model") this.#ofModel();
    memory.set("settings", this.values);
    if (name === "theme") chooseTheme(field.value);
    if (ON_THE_SERVER.includes(name)) told();
    else this.dispatchEvent(new CustomEvent("page", { detail: name }));
  }

  #defaults(told) {
    this.values = { ...DEFAULTS };
    for (const [name, value] of Object.entries(this.values)) this.#put(name, value);
    this.#ofModel();
    memory.set("settings", this.values);
    chooseTheme(this.values.theme);
    this.dispatchEvent(new CustomEvent("page", { detail: "all" }));
    told();
  }

  // The key is asked for anew on each visit: it is written nowhere.
  get key() {
    return this.form.elements.key.value.trim();
  }

  // Names are told by browsers only after the first permission.
  async listMicrophones() {
    const select = this.form.elements.microphone;
    const devices = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
    const inputs = devices.filter((device) => device.kind === "audioinput" && device.deviceId && device.deviceId !== "default");
    select.replaceChildren(new Option("The system's default", ""), ...inputs.map((d, n) => new Option(d.label || `Microphone ${n + 1}`, d.deviceId)));
    select.value = inputs.some((device) => device.deviceId === this.values.microphone) ? this.values.microphone : "";
  }

  // What the server has to choose from; a server with one model may say it without a list.
  offer({ model, contexts = {}, speakers = null, models = null }) {
    this.models = models ?? [{ model, contexts, speakers }];
    const several = this.models.length > 1;
    const select = this.form.elements.model;
    select.replaceChildren(...this.models.map((offered, n) => new Option(n ? offered.model : `${offered.model} (the server's default)`, n ? offered.model : "")));
    select.hidden = select.labels[0].hidden = !several;
    this.form.querySelector("#model-line").hidden = several;
    this.form.querySelector("#model").textContent = model;
    this.#ofModel();
  }

  // The model to ask for; "" for the server's default.
  get model() {
    return this.models.length > 1 ? this.values.model : "";
  }

  // The greeting, if it is of the model to ask for, else what is known of that one: contexts are each model's own.
  greeting(ready) {
    if (this.models.length < 2) return ready;
    const chosen = this.models.find(({ model }) => model === this.model) ?? this.models[0];
    return ready?.model === chosen.model ? ready : { context: chosen.contexts.default };
  }

  // Contexts, and whether speakers can be told apart, follow the model. Contexts are shown by their chunk and what they look ahead.
  #ofModel() {
    if (!this.models.length) return;
    const chosen = this.models.find(({ model }) => model === this.values.model) ?? this.models[0];
    if (this.models.length > 1 && chosen.model !== this.values.model) this.values.model = "";
    this.form.elements.model.value = this.models.length > 1 ? this.values.model : "";
    const field = this.form.elements.speakers;
    if (field) {
      field.disabled = chosen.speakers === false;
      if (field.disabled) field.checked = this.values.speakers = false;
    }
    const { contexts = {} } = chosen;
    const select = this.form.elements.context;
    const names = Object.entries(contexts).map(([name, frames]) => {
      const [, chunk, right] = String(frames).split(",").map((n) => Number(n) * FRAME_MS);
      return new Option(`${name}: ${chunk} ms${right ? ` + ${right} ahead` : ""}`, name);
    });
    if (names.length) select.replaceChildren(...names);
    if (names.length && !(this.values.context in contexts)) this.values.context = "default";
    if ([...select.options].some((option) => option.value === this.values.context)) select.value = this.values.context;
  }
}

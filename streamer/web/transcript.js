// The transcript panel: finals of all lanes as they come, search, hearing a word again, saving.

import { element, saveFile, settled } from "./elements.js";
import { clock } from "./lane_view.js";
import { hear } from "./playback.js";
import { RATE } from "./rings.js";
import { FORMATS, transcriptFile } from "./transcript_files.js";
import { turns } from "./turns.js";
import { DOUBTFUL, spoken } from "./word_rows.js";

const MOST_SHOWN = 200; // sentences on the page; older ones are found by search and are in saved files
const MOST_KEPT = 8000;

export class Transcript {
  // parts: elements {list, search, save, note, empty, count}.
  constructor(parts) {
    Object.assign(this, parts);
    this.finals = []; // {lane (name), owner (Lane), ...} in the order in which they came
    this.lanes = new Set();
    this.search.addEventListener("input", settled(() => this.#show(), 150));
    this.list.addEventListener("click", (event) => this.#clicked(event));
    this.list.addEventListener("keydown", (event) => this.#moved(event));
    for (const button of this.save.querySelectorAll("button[data-format]")) {
      button.addEventListener("click", () => this.#save(button.dataset.format));
    }
  }

  add(lane, final) {
    const entry = { ...final, lane: lane.name, owner: lane };
    this.finals.push(entry);
    if (this.finals.length > MOST_KEPT) this.finals.shift();
    const one = this.lanes.size === 1;
    this.lanes.add(lane.name);
    if (one && this.lanes.size > 1) this.#show(); // from now on each sentence says whose it is
    else {
      if (this.#matches(entry)) this.#append(entry);
      this.#counted();
    }
  }

  // A lane was taken away: its sound is let go, its text stays.
  forget(lane) {
    for (const entry of this.finals) if (entry.owner === lane) entry.owner = null;
  }

  clear() {
    this.finals = [];
    this.lanes.clear();
    this.#show();
  }

  #matches(entry) {
    const wanted = this.search.value.trim().toLowerCase();
    return !wanted || `${entry.lane} ${entry.speakers.join(" ")} ${entry.text}`.toLowerCase().includes(wanted);
  }

  #counted(found = null) {
    this.empty.hidden = this.finals.length > 0;
    this.count.textContent = found === null ? "" : `${found} of ${this.finals.length} sentences`;
    for (const button of this.save.querySelectorAll("button")) button.disabled = !this.finals.length;
  }

  #show() {
    const found = this.finals.filter((entry) => this.#matches(entry));
    this.list.setAttribute("aria-live", "off"); // what was said before is not read out again
    this.list.replaceChildren();
    for (const entry of found.slice(-MOST_SHOWN)) this.#append(entry);
    this.#counted(this.search.value.trim() ? found.length : null);
    requestAnimationFrame(() => this.list.setAttribute("aria-live", "polite"));
  }

  #append(entry) {
    const near = this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < 60;
    const who = this.lanes.size > 1 ? entry.lane : "";
    // whose words they are stands before each turn
    const words = turns(entry.words).flatMap((turn) => [
      ...(turn.speaker ? [element("span", { class: "speaker" }, `${turn.speaker}:`), " "] : []),
      ...turn.words.flatMap((word) => [this.#word(word), " "]),
    ]);
    const item = element(
      "li",
      { class: "final" },
      element("span", { class: "when" }, `${clock(entry.start / RATE)}${who ? ` ${who}` : ""} `),
      element("span", { class: "words" }, ...words),
    );
    item.entry = entry;
    this.list.append(item);
    while (this.list.children.length > MOST_SHOWN) this.list.firstElementChild.remove();
    if (!this.list.querySelector(".word[tabindex='0']")) this.list.querySelector(".word")?.setAttribute("tabindex", "0");
    if (near) this.list.scrollTop = this.list.scrollHeight;
  }

  #word(word) {
    const level = word.confidence < DOUBTFUL ? "doubtful" : word.confidence < 0.8 ? "fair" : "sure";
    const button = element("button", { type: "button", class: `word ${level}`, tabindex: -1, title: spoken(word) }, word.text);
    button.word = word;
    return button;
  }

  #clicked(event) {
    const button = event.target.closest(".word");
    if (!button) return;
    this.#focus(button);
    const { owner } = button.closest("li").entry;
    const heard = owner?.sound && hear(owner.sound, button.word.start, button.word.end);
    this.note.textContent = heard ? "" : owner ? "The page keeps the last three minutes of sound; this word is older." : "The lane of this word was removed, and its sound with it.";
  }

  #focus(button) {
    this.list.querySelector(".word[tabindex='0']")?.setAttribute("tabindex", "-1");
    button.setAttribute("tabindex", "0");
    button.focus();
  }

  // One stop for the tabulator; the arrows go from word to word, up and down from sentence to sentence.
  #moved(event) {
    const button = event.target.closest(".word");
    const steps = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
    if (!button) return;
    if (event.key in steps) {
      const all = [...this.list.querySelectorAll(".word")];
      const to = Math.max(0, Math.min(all.length - 1, all.indexOf(button) + steps[event.key]));
      this.#focus(all[to]);
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const item = button.closest("li");
      const other = event.key === "ArrowDown" ? item.nextElementSibling : item.previousElementSibling;
      const word = other?.querySelector(".word");
      if (word) this.#focus(word);
    } else return;
    event.preventDefault();
  }

  #save(format) {
    const found = this.finals.filter((entry) => this.#matches(entry));
    const name = `wavlm-live-${new Date().toISOString().slice(0, 19).replaceAll(":", "-")}.${format}`;
    saveFile(name, FORMATS[format].type, transcriptFile(format, found));
    this.note.textContent = `Saved ${found.length} ${found.length === 1 ? "sentence" : "sentences"} as ${name}.`;
  }
}

// The card of a lane on the page: name, state in words, level, buttons, the picture, and the text that is being spoken.

import { element } from "./elements.js";
import { HEIGHT, LaneView, PROBABILITY } from "./lane_view.js";
import { SIGNS } from "./states.js";

const QUIET_DB = -60;

export class LanePanel {
  // lane: a Lane or a WatchedLane. seconds: width of the view. onClose: the card was taken away.
  constructor(lane, { seconds = 10, onClose = () => {} } = {}) {
    this.lane = lane;
    this.onClose = onClose;
    this.title = element("h2", { class: "lane-name" }, lane.name);
    this.pill = element("p", { class: "pill", "data-tone": "idle" });
    this.advice = element("p", { class: "advice", role: "alert" });
    this.meterBar = element("div", { class: "meter-bar" });
    this.meter = element(
      "div",
      { class: "meter", role: "meter", "aria-label": "Level", "aria-valuemin": QUIET_DB, "aria-valuemax": 0, "aria-valuenow": QUIET_DB },
      this.meterBar,
    );
    const strip = element("div", { class: "strip" });
    this.threshold = element("div", { class: "threshold" }, element("span"));
    this.frameBox = element("div", { class: "picture-frame", role: "img" }, strip, this.threshold);
    this.frameBox.style.height = `${HEIGHT + 2}px`;
    this.partial = element("p", { class: "partial" }, element("span", { class: "stable" }), " ", element("span", { class: "unstable" }));
    this.buttons = this.#buttons();
    this.root = element(
      "section",
      { class: "lane", "aria-label": lane.name },
      element("header", { class: "lane-head" }, this.title, this.pill, this.meter, element("div", { class: "lane-buttons" }, ...Object.values(this.buttons))),
      this.advice,
      this.frameBox,
      this.partial,
    );
    this.view = new LaneView(this.frameBox, strip, lane, seconds);
    lane.addEventListener("state", () => this.#state());
    lane.addEventListener("partial", () => this.#text());
    lane.addEventListener("problem", (event) => {
      this.advice.textContent = event.detail;
    });
    this.#state();
    this.measured = 0;
  }

  #buttons() {
    const { lane } = this;
    if (lane.watched) return { close: element("button", { type: "button", onclick: () => this.close() }, "Hide") };
    return {
      flush: element("button", { type: "button", title: "End the sentence now", onclick: () => lane.connection?.flush() }, "End sentence"),
      pause: element("button", { type: "button", onclick: () => (lane.stateName === "paused" ? lane.resume() : lane.pause()) }, "Pause"),
      stop: element("button", { type: "button", onclick: () => this.#startOrStop() }, "Stop"),
      close: element("button", { type: "button", onclick: () => this.close() }, "Remove"),
    };
  }

  #startOrStop() {
    const { lane } = this;
    if (["unreachable", "full", "broken"].includes(lane.stateName)) lane.retry();
    else if (lane.running || lane.stateName === "paused") lane.stop();
    else {
      this.dispatchRestart();
    }
  }

  // Replaced by the page: a lane that has ended is begun anew.
  dispatchRestart() {
    this.lane.start();
  }

  #state() {
    const { state, stateName } = this.lane;
    this.title.textContent = this.lane.name;
    this.root.setAttribute("aria-label", this.lane.name);
    this.root.dataset.state = stateName;
    this.pill.dataset.tone = state.tone;
    this.pill.textContent = `${SIGNS[state.tone]} ${state.label}`;
    if (this.advice.textContent !== state.advice) this.advice.textContent = state.advice;
    this.advice.hidden = !state.advice;
    this.frameBox.hidden = this.partial.hidden = state.tone === "bad" && this.lane.seconds < 1; // nothing to see
    const { pause, stop, flush } = this.buttons;
    if (stop) {
      const waits = ["unreachable", "full", "broken"].includes(stateName);
      const going = ["live", "playing", "paused", "connecting", "asking", "loading"].includes(stateName);
      pause.hidden = flush.hidden = !["live", "playing", "paused"].includes(stateName);
      pause.textContent = stateName === "paused" ? "Continue" : "Pause";
      stop.hidden = stateName === "finishing";
      stop.textContent = waits ? "Try now" : going ? "Stop" : "Start again";
    }
    this.view.repaint();
    this.#text();
  }

  #text() {
    const [stable, unstable] = this.partial.querySelectorAll("span");
    const shown = this.lane.timeline.partial;
    stable.textContent = shown?.stable ?? "";
    unstable.textContent = shown?.unstable ?? "";
  }

  // Called for every frame of the page.
  frame(now) {
    const drawn = this.view.frame(now);
    if (now - this.measured > 100) {
      this.measured = now;
      this.#level();
      this.#threshold();
    }
    return drawn;
  }

  #threshold() {
    const { threshold } = this.lane;
    if (threshold === this.shownThreshold) return;
    this.shownThreshold = threshold;
    this.threshold.style.top = `${PROBABILITY.top + (1 - threshold) * PROBABILITY.height}px`;
    this.threshold.firstChild.textContent = `speech ≥ ${Math.round(threshold * 100)}%`;
    this.threshold.firstChild.style.top = `${-(1 - threshold) * PROBABILITY.height - 2}px`;
  }

  #level() {
    const level = Math.max(QUIET_DB, Math.min(0, this.lane.level));
    this.meterBar.style.transform = `scaleX(${1 - level / QUIET_DB})`;
    const rounded = Math.round(level / 5) * 5;
    if (rounded !== this.shownLevel) {
      this.shownLevel = rounded;
      this.meter.setAttribute("aria-valuenow", rounded);
      this.meter.setAttribute("aria-valuetext", rounded <= QUIET_DB ? "silent" : `${rounded} decibels`);
    }
    const speaking = this.lane.timeline.speech.at(-1)?.end === null ? "somebody speaks" : "silence";
    if (speaking !== this.shownSpeaking) {
      this.shownSpeaking = speaking;
      this.frameBox.setAttribute("aria-label", `Picture of the sound of ${this.lane.name}: waveform, spectrogram, probability of speech and words. Now: ${speaking}.`);
    }
  }

  close() {
    this.lane.close();
    this.view.close();
    this.root.remove();
    this.onClose(this);
  }
}

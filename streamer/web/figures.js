// The header's figures: how late this page's text is, and how the server is doing, from its /metrics.

import { figure } from "./elements.js";

const EVERY_MS = 2000;

// Prometheus' text format: name{labels} value. Gives the sum over the labels of each name; histograms keep their _sum
// and _count.
export function parseMetrics(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const match = /^([a-zA-Z_:][\w:]*)(?:\{.*\})?\s+(\S+)/.exec(line);
    if (match && !line.startsWith("#")) found.set(match[1], (found.get(match[1]) ?? 0) + Number(match[2]));
  }
  return found;
}

export class Figures {
  // parts: elements by name. latency: a Latency. lanes(): the lanes of the page. key(): API key.
  constructor(parts, latency, lanes, key) {
    Object.assign(this, { parts, latency, lanes, key });
    this.before = null;
    this.timer = setInterval(() => this.#tick(), EVERY_MS);
    this.#tick();
  }

  async #tick() {
    if (document.hidden) return;
    this.#page();
    try {
      const began = performance.now();
      const answer = await fetch("/healthz", { cache: "no-store" });
      await answer.text();
      this.latency.trip(performance.now() - began);
      this.#connected(answer.ok);
      await this.#server();
    } catch {
      this.#connected(false);
    }
  }

  #connected(there) {
    const text = there ? "● Server there" : "▲ No server";
    if (this.parts.server.textContent !== text) this.parts.server.textContent = text;
    this.parts.server.dataset.tone = there ? "good" : "bad";
  }

  #page() {
    const summary = this.latency.summary();
    this.parts.latency.textContent = summary ? `${figure(summary.p50)} / ${figure(summary.p95, "ms")}` : "–";
    this.parts.split.textContent = summary
      ? `${figure(summary.waiting)} waiting for the chunk + ${figure(summary.computing)} computing + ${figure(summary.network)} network`
      : "appears with the first words";
    const dropped = this.lanes().reduce((sum, lane) => sum + lane.dropped, 0);
    this.parts.dropped.textContent = String(dropped);
    this.parts.dropped.dataset.tone = dropped ? "bad" : "";
  }

  async #server() {
    const headers = this.key() ? { Authorization: `Bearer ${this.key()}` } : {};
    const answer = await fetch("/metrics", { headers, cache: "no-store" });
    const { parts } = this;
    if (!answer.ok) {
      for (const name of ["factor", "sessions", "batch"]) parts[name].textContent = answer.status === 401 || answer.status === 403 ? "needs the key" : "–";
      return;
    }
    const metrics = parseMetrics(await answer.text());
    const get = (name) => metrics.get(`wavlm_live_batcher_${name}`);
    parts.sessions.textContent = figure(get("sessions"));
    parts.factor.textContent = figure(get("realtime_factor"), "", 2);
    parts.batch.textContent = figure(get("batch_mean"), "", 1);
  }

  close() {
    clearInterval(this.timer);
  }
}

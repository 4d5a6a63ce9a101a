"""What the dashboard costs a browser: heap and time of a frame of 8 lanes, over a simulated hour.

    python benchmarks/dashboard.py --sound RECORDING.wav --minutes 60

No model runs: the page's own lanes get the recording again and again as their microphone, and a WebSocket within the
page answers each of them as a server does. The hour passes as fast as the browser can take it in; at its beginning,
middle and end frames are timed at the pace of speech: in a window in which some lanes are out of sight, and in one that
shows all of them. Chromium has no graphics card here and paints on the processor; what a laptop with one would bear is
the page's main thread, whose processor time is measured apart (it holds the lanes' Fourier transforms and this
benchmark's server, too).
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import machine
import soundfile
from playwright.sync_api import CDPSession, Page, sync_playwright

from wavlm_live.streamer.web import Pages

WINDOWS = ((1280, 800), (2560, 1440))

SERVER = """() => {
  const WORDS = 'zero one two three four five six seven eight nine'.split(' ');
  window.WebSocket = class {
    static OPEN = 1;
    constructor() {
      Object.assign(this, { readyState: 1, bufferedAmount: 0, bytes: 0, seq: 0, index: 0, words: [], spoken: 0 });
      queueMicrotask(() => this.onopen());
    }
    tell(type, event) {
      this.seq += 1;
      this.onmessage({ data: JSON.stringify({ type, seq: this.seq, ...event }) });
    }
    send(data) {
      if (typeof data === 'string') {
        if (JSON.parse(data).type === 'start') {
          this.tell('ready', { model: 'none', context: '250,32,8', latency_s: 0.8, sample_rate: 16000, session: 's',
                               resumed: 'new', bytes: 0, messages: 0, window_s: 5 });
          this.seq = 0;
        }
        return;
      }
      const before = this.bytes;
      this.bytes += data.byteLength;
      const passed = (samples) => Math.floor(this.bytes / 2 / samples) > Math.floor(before / 2 / samples);
      const now = this.bytes / 32000;
      if (passed(2560)) {
        const probabilities = [0.1, 0.3, 0.9, 0.95, 0.6].map((p) => p * (now % 4 < 3));
        this.tell('activity', { start_s: Math.floor(now / 0.16) * 0.16 - 0.16, hop_s: 0.032, probabilities });
      }
      if (passed(6400) && now % 4 < 3) {
        const word = { text: WORDS[this.spoken % 10], start_s: now - 0.4, end_s: now - 0.1, confidence: Math.random() };
        this.spoken += 1;
        this.words.push(word);
        const texts = this.words.map((w) => w.text);
        this.tell('partial', { stable: texts.slice(0, -1).join(' '), unstable: texts.at(-1), words: this.words });
      }
      if (passed(64000)) {
        this.tell('speech_started', { at_s: now });
        this.tell('speech_stopped', { at_s: now + 3 });
        if (this.words.length) {
          const { words } = this;
          this.tell('final', { text: words.map((w) => w.text).join(' '), words, start_s: words[0].start_s,
                               end_s: words.at(-1).end_s, reason: 'silence', index: this.index });
          this.index += 1;
          this.words = [];
        }
      }
      if (passed(16000)) {
        this.tell('acknowledged', { samples: this.bytes / 2, heard_bytes: this.bytes,
          point: { bytes: this.bytes, origin_samples: this.bytes / 2, segment_samples: this.bytes / 2,
                   finals: this.index, messages: 0 } });
      }
    }
    close() {}
  };
}"""

LANES = """([count, sound]) => {
  const samples = Int16Array.from(sound);
  window.takes = [];
  window.at = 0;
  for (let n = 0; n < count; n += 1) {
    wavlmLive.begin({ name: `lane ${n + 1}`, dropped: 0, start: async (take) => window.takes.push(take),
                      pause() {}, resume() {}, stop() {} });
  }
  window.pump = (blocks) => {
    for (let n = 0; n < blocks; n += 1) {
      if (window.at + 320 > samples.length) window.at = 0;
      for (const take of window.takes) take(samples.slice(window.at, window.at + 320));
      window.at += 320;
    }
  };
}"""

HOUR = """async (seconds) => {
  for (let s = 0; s < seconds; s += 1) {
    pump(50);
    if (s % 4 === 0) await new Promise(requestAnimationFrame);
  }
}"""

FRAMES = """async (seconds) => {
  const times = [];
  const draws = [];
  const began = performance.now();
  let pumped = 0;
  let last = null;
  const { frames } = wavlmLive;
  let spent = frames.ms;
  while (performance.now() - began < seconds * 1000) {
    const now = await new Promise(requestAnimationFrame);
    const due = Math.floor((performance.now() - began) / 20);
    pump(due - pumped);
    pumped = due;
    if (last !== null) { times.push(now - last); draws.push(frames.ms - spent); }
    spent = frames.ms;
    last = now;
  }
  return [times, draws];
}"""


def files() -> ThreadingHTTPServer:
    """A server of the page's files alone."""
    pages = Pages()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = pages.find(self.path)
            self.send_response(200 if page else 404)
            for name, value in (page.headers if page else {"content-length": "0"}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(page.body if page else b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def heap_mb(session: CDPSession) -> float:
    session.send("HeapProfiler.collectGarbage")
    usage = session.send("Runtime.getHeapUsage")
    return round((usage["usedSize"] + usage.get("backingStorageSize", 0)) / 1e6, 2)


def quantile(values: list[float], share: float) -> float:
    return round(sorted(values)[int(share * (len(values) - 1))], 2)


def main_thread_s(session: CDPSession) -> float:
    """Processor time of all tasks of the page's main thread so far."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return next(m["value"] for m in metrics if m["name"] == "TaskDuration")


def frames(page: Page, session: CDPSession, size: tuple[int, int], seconds: float) -> dict[str, object]:
    """Time frames in a window of this size."""
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.wait_for_timeout(1000)
    before = main_thread_s(session)
    times, draws = page.evaluate(FRAMES, seconds)
    spent_s = main_thread_s(session) - before
    return {
        "window": f"{size[0]}x{size[1]}",
        "in_sight": page.evaluate("[...wavlmLive.panels].filter((panel) => panel.view.visible).length"),
        "frames_a_second": round(1000 / statistics.mean(times), 1),
        "frame_ms": {f"p{q}": quantile(times, q / 100) for q in (50, 95, 99)},
        "drawing_ms": {f"p{q}": quantile(draws, q / 100) for q in (50, 95, 99)},
        "main_thread_ms_a_frame": round(1000 * spent_s / len(times), 2),
        "main_thread_share": round(spent_s / (sum(times) / 1000), 3),
    }


def measure(page: Page, session: CDPSession, options: argparse.Namespace, sound: list[int]) -> dict[str, object]:
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.evaluate(SERVER)
    page.evaluate(LANES, [options.lanes, sound])
    page.evaluate(HOUR, 30)
    rows = [{"minute": 0, "heap_mb": heap_mb(session)}]
    timed = [{"minute": 0, **frames(page, session, size, options.frames_s)} for size in WINDOWS]
    took_s = 0.0
    for minute in range(5, options.minutes + 1, 5):
        page.set_viewport_size({"width": WINDOWS[0][0], "height": WINDOWS[0][1]})
        began = time.perf_counter()
        page.evaluate(HOUR, 300)
        took_s += time.perf_counter() - began
        rows.append({"minute": minute, "heap_mb": heap_mb(session)})
        print(f"{minute:3d} min  {rows[-1]['heap_mb']:7.2f} MB", flush=True)
        if minute in (options.minutes // 2, options.minutes):
            timed += [{"minute": minute, **frames(page, session, size, options.frames_s)} for size in WINDOWS]
    finals = page.evaluate("[...wavlmLive.panels].map((panel) => panel.lane.timeline.count)")
    for row in timed:
        print(row)
    return {
        "rendering": "software, no graphics card",
        "lanes": options.lanes,
        "minutes": options.minutes,
        "heap": rows,
        "simulated_s_a_second": round(60 * options.minutes / took_s) if took_s else None,
        "finals": sum(finals),
        "nodes": page.evaluate("document.querySelectorAll('*').length"),
        "frames": timed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sound", required=True, help="a recording, 16 kHz mono")
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--lanes", type=int, default=8)
    parser.add_argument("--frames-s", type=float, default=5.0)
    parser.add_argument("--result", default="dashboard", help="name of the file in results/; empty for none")
    options = parser.parse_args()
    sound, rate = soundfile.read(options.sound, dtype="int16")
    assert rate == 16_000
    server = files()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.goto(f"http://127.0.0.1:{server.server_address[1]}/")
        session = page.context.new_cdp_session(page)
        result = measure(page, session, options, [int(sample) for sample in sound])
        result["browser"] = browser.version
        browser.close()
    server.shutdown()
    print({name: value for name, value in result.items() if name not in ("heap", "frames")})
    if options.result:
        machine.write(options.result, result)


if __name__ == "__main__":
    main()

"""The page's modules one by one, in the browser that runs them, against numpy and soxr."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soxr

from wavlm_live.streamer.sources.resample import StreamResampler


@pytest.fixture(scope="module")
def run(chromium, server):
    """Runs a function of the page with arguments; modules are imported by `await load('rings')`."""
    context = chromium.new_context()
    page = context.new_page()
    page.goto(server.url)

    def run(body: str, *given):
        return page.evaluate(
            f"async (given) => {{ const load = (name) => import(`/web/${{name}}.js`); {body} }}", list(given)
        )

    yield run
    context.close()


def test_a_sound_ring_keeps_the_newest(run, seed):
    rng = np.random.default_rng(seed)
    blocks = [rng.integers(-32768, 32768, n).tolist() for n in rng.integers(0, 900, 40)]
    whole = np.concatenate([np.array(b, int) for b in blocks])
    total, oldest, kept, early = run(
        """const { SoundRing } = await load('rings');
        const ring = new SoundRing(0.25);
        for (const block of given[0]) ring.push(Int16Array.from(block));
        return [ring.total, ring.oldest, Array.from(ring.read(ring.oldest, ring.total)),
                Array.from(ring.read(0, ring.oldest + 5))];""",
        blocks,
    )
    assert total == len(whole)
    assert oldest == total - 4000
    assert kept == whole[-4000:].tolist()
    assert early == whole[-4000:-3995].tolist()


def test_percentiles(run, seed):
    values = np.random.default_rng(seed).exponential(100, 700)
    p50, p95 = run(
        """const { Recent } = await load('rings'); const recent = new Recent(500);
        for (const v of given[0]) recent.add(v);
        return [recent.percentile(0.5), recent.percentile(0.95)];""",
        values.tolist(),
    )
    newest = np.sort(values[-500:])
    assert p50 == pytest.approx(newest[250], rel=1e-5)
    assert p95 == pytest.approx(newest[475], rel=1e-5)


def test_spectrum_is_numpys(run, seed):
    rng = np.random.default_rng(seed)
    time_s = np.arange(16_000) / 16_000
    hz = float(rng.uniform(300, 6000))
    sound = 0.3 * np.sin(2 * np.pi * hz * time_s) + 0.001 * rng.standard_normal(16_000)
    samples = np.round(sound * 32767).astype(int)
    cuts = np.sort(rng.integers(0, 16_000, 30)).tolist()
    columns, peaks, bands = run(
        """const { Spectrum, BANDS } = await load('spectrum'); const spectrum = new Spectrum(2);
        const all = Int16Array.from(given[0]); let at = 0;
        for (const cut of [...given[1], all.length]) { spectrum.push(all.slice(at, cut)); at = cut; }
        const row = (ring, r) => Array.from(ring.values.slice(ring.at(r), ring.at(r) + ring.width));
        const rows = (ring) => Array.from({ length: ring.total }, (_, r) => row(ring, r));
        return [rows(spectrum.columns), rows(spectrum.peaks), BANDS];""",
        samples.tolist(),
        cuts,
    )
    assert len(columns) == len(peaks) == 100
    by_hop = samples.reshape(-1, 160)
    assert np.array_equal(peaks, np.stack([by_hop.min(1), by_hop.max(1)], 1))
    # column 50 covers the 512 samples up to 51 * 160; bands as the formula of the mel scale says
    window = samples[51 * 160 - 512 : 51 * 160] / 32768 * np.hanning(513)[:512]
    power = np.abs(np.fft.rfft(window)) ** 2
    mel = np.linspace(*(2595 * np.log10(1 + np.array([60, 7600]) / 700)), bands + 1)
    edges = 700 * (10 ** (mel / 2595) - 1) * 512 / 16_000
    for band in range(bands):
        low = int(edges[band])
        high = max(low, int(np.ceil(edges[band + 1])) - 1)
        db = 10 * np.log10(power[low : high + 1].max() / 128**2 + 1e-12)
        assert abs(columns[50][band] - np.clip((db + 85) / 70, 0, 1) * 255) < 3, band


@pytest.mark.parametrize("rate", [44_100, 48_000, 22_050, 8_000])
def test_resampler_agrees_with_soxr(run, seed, rate):
    """Tones below 6 kHz (or the card's own limit) come out as soxr's best quality gives them, whatever the blocks."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(rate // 2) / rate
    highest = min(6000, 0.4 * rate)
    sound = sum(0.1 * np.sin(2 * np.pi * f * time_s + p) for f, p in rng.uniform([100, 0], [highest, 6], (4, 2)))
    cuts = np.sort(rng.integers(0, len(sound), 20)).tolist()
    out = np.array(
        run(
            """const { Resampler } = await load('resampling'); const resampler = new Resampler(given[1]);
            const all = Float32Array.from(given[0]); const out = []; let at = 0;
            for (const cut of [...given[2], all.length]) { out.push(...resampler.push(all.slice(at, cut))); at = cut; }
            return out;""",
            sound.tolist(),
            rate,
            cuts,
        )
    )
    wanted = soxr.resample(sound, rate, 16_000, quality="VHQ")
    assert len(wanted) - 200 < len(out) <= len(wanted)
    middle = slice(400, len(out) - 400)
    best = min(np.abs(out[middle] - np.roll(wanted, shift)[: len(out)][middle]).max() for shift in (-1, 0, 1))
    assert best < 0.01


def test_resampling_at_the_same_rate_changes_nothing(run):
    assert run(
        "const { Resampler } = await load('resampling');"
        "return Array.from(new Resampler(16000).push(Float32Array.from([0.5, -1])));"
    ) == [0.5, -1]
    assert StreamResampler(16_000).feed(np.float32([0.5, -1])).tolist() == [0.5, -1]


def test_settings_on_the_wire_are_what_the_server_takes(run, recogniser, seed):
    """Whatever the panel can hold is accepted by the server's own reading of it."""
    from wavlm_live.streamer.protocols.settings_of_clients import client_settings
    from wavlm_live.streamer.session_settings import SessionSettings

    rng = np.random.default_rng(seed)
    for _ in range(20):
        values = {
            "left_ms": str(rng.choice(["", "2000"])),
            "chunk_ms": str(rng.choice(["", "320", "960"])),
            "right_ms": str(rng.choice(["", "0", "160"])),
            "context": str(rng.choice(["default", "low"])),
            "beam": str(rng.integers(0, 65)),
            "hotwords": str(rng.choice(["", "go left", "go left:2.5\nstop, yes:1"])),
            "silence_ms": str(20 * rng.integers(5, 200)),
            "max_segment_s": str(rng.integers(10, 60)),
            "threshold": str(round(float(rng.integers(1, 20)) * 0.05, 2)),
        }
        wire = run(
            "const s = await load('settings');"
            "return s.onTheWire({ ...s.DEFAULTS, ...given[0] }, { context: '250,32,8' });",
            values,
        )
        settings = client_settings(wire, SessionSettings(), recogniser.context)
        assert settings.activity
        assert settings.speech.start_probability == float(values["threshold"])
        assert settings.endpoint.silence_ms == int(values["silence_ms"])
        if values["chunk_ms"]:
            assert settings.context.chunk_frames == int(values["chunk_ms"]) // 20
        if values["hotwords"].startswith("go left:"):
            assert settings.decoding.hotwords == (("go left", 2.5), ("stop", 1.5), ("yes", 1.0))


FINALS = [
    {
        "lane": "a <b>",
        "text": "zero one & two",
        "start": 16_000,
        "end": 40_000,
        "reason": "silence",
        "speakers": [],
        "words": [
            {"text": "zero", "start": 16_000, "end": 20_000, "confidence": 0.9},
            {"text": "one", "start": 24_000, "end": 28_000, "confidence": 0.4},
            {"text": "&", "start": 29_000, "end": 30_000, "confidence": 0.4},
            {"text": "two", "start": 32_000, "end": 40_000, "confidence": 1},
        ],
    },
    {
        "lane": "a <b>",
        "text": "x " * 60,
        "start": 3600 * 16_000,
        "end": 3620 * 16_000,
        "reason": "end",
        "speakers": ["Ada"],
        "words": [
            {"text": "x", "start": at, "end": at + 3000, "confidence": 0.8, "speaker": "Ada"}
            for at in range(3600 * 16_000, 3600 * 16_000 + 60 * 5000, 5000)
        ],
    },
]


def test_transcripts_as_files(run):
    files = run(
        "const { transcriptFile } = await load('transcript_files');"
        "const one = (format) => [format, transcriptFile(format, given[0])];"
        "return Object.fromEntries(['txt', 'srt', 'vtt', 'json'].map(one));",
        FINALS,
    )
    assert files["txt"].splitlines()[0] == "[00:00:01] zero one & two"
    cues = files["srt"].strip().split("\n\n")
    assert cues[0] == "1\n00:00:01,000 --> 00:00:02,500\nzero one & two"
    assert len(cues) >= 3
    for number, cue in enumerate(cues, start=1):
        head, times, *lines = cue.split("\n")
        assert head == str(number)
        start, end = times.split(" --> ")
        assert start < end
        assert 1 <= len(lines) <= 2
        assert all(len(line.removeprefix("Ada: ")) <= 42 for line in lines)
    assert files["vtt"].startswith("WEBVTT\n\n00:00:01.000 --> 00:00:02.500\nzero one &amp; two\n\n01:00:00.000 --> ")
    assert "<v Ada>x" in files["vtt"]
    document = json.loads(files["json"])
    assert document["segments"][0]["words"][1] == {"text": "one", "start_s": 1.5, "end_s": 1.75, "confidence": 0.4}
    assert sum(" ".join(cue.split("\n")[2:]).split().count("x") for cue in cues[1:]) == 60


def test_turns_of_speakers_are_in_every_file(run):
    """Two people in one sentence; of the first word nobody knows who said it."""
    said = [("now", None), ("yes", "Ada <1>"), ("no", "speaker 2"), ("so", None), ("well", "Ada <1>")]
    words = [
        {"text": text, "start": n * 8000, "end": n * 8000 + 6000, "confidence": 0.9, "speaker": speaker}
        for n, (text, speaker) in enumerate(said)
    ]
    final = {"lane": "a", "text": "now yes no so well", "start": 0, "end": 48_000, "reason": "silence",
             "speakers": ["Ada <1>", "speaker 2"], "words": words}  # fmt: skip
    txt, srt, vtt, document = run(
        "const { transcriptFile } = await load('transcript_files');"
        "return ['txt', 'srt', 'vtt', 'json'].map((format) => transcriptFile(format, [given[0]]));",
        final,
    )
    assert [line.split("] ")[1] for line in txt.splitlines()] == [
        "Ada <1>: now yes",
        "speaker 2: no so",
        "Ada <1>: well",
    ]
    assert [cue.split("\n")[2] for cue in srt.strip().split("\n\n")] == [
        "Ada <1>: now yes", "speaker 2: no so", "Ada <1>: well"
    ]  # fmt: skip
    assert "<v Ada &lt;1&gt;>now yes" in vtt
    assert "<v speaker 2>no so" in vtt
    told = [word.get("speaker") for word in json.loads(document)["segments"][0]["words"]]
    assert told == [speaker for _, speaker in said]


def test_metrics_are_read(run, server):
    """The header reads what the server writes."""
    import httpx

    text = httpx.get(f"{server.url}metrics").text
    found = dict(run("const { parseMetrics } = await load('figures'); return [...parseMetrics(given[0])];", text))
    assert found["wavlm_live_batcher_sessions"] == server.batcher.statistics().sessions
    assert "wavlm_live_batcher_batch_mean" in found
    assert "wavlm_live_batcher_realtime_factor" in found

"""Lanes in a real browser: what the microphone and a file say appears, in the right place."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

HOP = 160
SPAN_S = 10.0


def loud(samples: np.ndarray) -> np.ndarray:
    """Which stretches of 10 ms are louder than -36 dB: the recording's own truth about where speech is."""
    rows = samples[: len(samples) // HOP * HOP].reshape(-1, HOP).astype(np.float64) / 32768
    return 10 * np.log10((rows**2).mean(axis=1) + 1e-12) > -36


def texts(recogniser, samples: np.ndarray) -> list[str]:
    """What a session says of the same sound, without browser and server."""
    session = recogniser.open()
    events = [*session.feed(samples.astype(np.float32) / 32768), *session.finish()]
    return [event.text for event in events if type(event).__name__ == "Final"]


LOOK = """() => {
  const [panel] = wavlmLive.panels;
  const { lane, view } = panel;
  view.frame(performance.now());
  // the tiles, side by side as the strip shows them
  const { tiles } = view;
  const shown = document.createElement('canvas');
  shown.width = view.width;
  shown.height = tiles.all[0].canvas.height;
  const pen = shown.getContext('2d');
  for (const tile of tiles.all) pen.drawImage(tile.canvas, tile.left - tiles.moved, 0);
  const rows = (top) => Array.from(pen.getImageData(0, top, shown.width, 1).data);
  return {
    sound: Array.from(lane.sound.read(0, lane.sound.total)),
    speech: lane.timeline.speech,
    finals: lane.timeline.finals,
    decided: lane.timeline.heard,
    head: view.lastHead,
    edges: rows(19),
    bars: rows(198),
    marks: rows(150),
    latency: wavlmLive.latency.summary(),
    sessions: document.querySelector('#sessions').textContent,
    shown: document.querySelector('#latency').textContent,
    transcript: [...document.querySelectorAll('#finals .words')].map((node) => node.textContent),
  };
}"""


@pytest.fixture(scope="module")
def heard(server, chromium, until, eventually) -> dict:
    """What a page knows that has just heard two groups of words over the microphone."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800}, device_scale_factor=1, color_scheme="light")
    page = context.new_page()
    page.set_default_timeout(90_000)
    page.goto(server.url)
    page.get_by_role("button", name="Microphone").click()
    until(page, "lane.timeline.finals.length >= 2")
    eventually(page, "document.querySelector('#sessions').textContent === '1'")
    found = page.evaluate(LOOK)
    context.close()
    return found | {"sound": np.array(found["sound"], np.int16)}


def test_the_microphones_words_are_what_its_sound_says(heard, recogniser):
    """Sound that the browser recorded gives in a session of our own the words that the page shows."""
    wanted = texts(recogniser, heard["sound"])
    shown = [" ".join(text.split()) for text in heard["transcript"]]
    assert shown[:2] == wanted[:2]
    assert len(wanted[0].split()) >= 3


def inside(spans: list[dict], stretches: int) -> np.ndarray:
    found = np.zeros(stretches, bool)
    for span in spans:
        found[span["start"] // HOP : span["end"] // HOP] = True
    return found


def test_segments_are_where_the_speech_is(heard):
    decided = heard["decided"] // HOP
    is_loud = loud(heard["sound"])[:decided]
    spans = [span for span in heard["speech"] if span["end"] is not None]
    for span in spans:
        assert is_loud[max(0, span["start"] // HOP - 10) : span["end"] // HOP + 10].any(), "a segment without sound"
    shaded = inside(spans, decided)
    assert is_loud.sum() > 100
    assert (is_loud & shaded).sum() > 0.8 * is_loud.sum()
    # the pause between the groups, and the one at the end, are in no segment
    quiet = np.convolve(is_loud, np.ones(60), "same") == 0
    assert quiet.sum() > 50
    assert (quiet & shaded).sum() < 0.1 * quiet.sum()


def test_words_stand_below_their_sound(heard):
    is_loud = loud(heard["sound"])
    words = [word for final in heard["finals"] for word in final["words"]]
    assert len(words) >= 6
    for word in words:
        assert is_loud[max(0, word["start"] // HOP - 15) : word["end"] // HOP + 15].any(), word
        assert 0 <= word["confidence"] <= 1


def test_the_picture_shows_them(heard):
    """Pixels of the canvas: an edge above speech, none in the pause, bars above words, a mark where a segment ended."""
    edges, bars, marks = (np.array(heard[name]).reshape(-1, 4)[:, :3] for name in ("edges", "bars", "marks"))
    width, first = len(edges), heard["head"] - SPAN_S * 16_000

    def column(sample: float) -> int:
        return round((sample - first) / (SPAN_S * 16_000) * width)

    def near(row: np.ndarray, at: int, colour: list[int], reach: int = 2) -> bool:
        return bool((np.abs(row[max(0, at - reach) : at + reach + 1] - colour).max(axis=1) < 40).any())

    green, ink, purple = [0x1F, 0x8A, 0x4C], [0x17, 0x21, 0x1F], [0x7A, 0x2A, 0x8C]
    seen = [span for span in heard["speech"] if span["start"] > first and span["end"] is not None]
    assert len(seen) >= 2
    for span in seen:
        assert near(edges, column((span["start"] + span["end"]) / 2), green), span
    for before, after in pairwise(seen):
        if after["start"] - before["end"] > 8000:
            assert not near(edges, column((before["end"] + after["start"]) / 2), green)
    shown = [w for f in heard["finals"] for w in f["words"] if w["start"] > first and w.get("row") == 0]
    assert shown
    for word in shown:
        assert near(bars, column(word["start"]) + 1, ink), f"no bar above {word['text']}"
    # dotted: a mark shows in some rows only, but always in its place
    assert near(marks, column(heard["finals"][-1]["end"]), purple) or near(
        marks, column(heard["finals"][-1]["end"]), green
    )


def test_figures_are_told(heard):
    assert heard["sessions"] == "1"
    assert heard["shown"].endswith(" ms")
    latency = heard["latency"]
    assert latency["words"] == sum(len(final["words"]) for final in heard["finals"]), "each word once"
    # a chunk of 640 ms with 160 ms ahead: a word is certain 160 ms after its end at the earliest
    assert latency["p50"] > 160
    assert latency["p95"] >= latency["p50"] >= latency["waiting"] > 100
    assert latency["computing"] >= 0


def test_a_file_says_what_a_session_says(visit, server, recording, speech, lane, until, recogniser):
    """A dropped file reaches the model sample by sample as it is in the file, at its own pace, to its last word."""
    page = visit(server.url)
    page.locator("#file").set_input_files(recording)
    until(page, "lane.stateName === 'playing'")
    began = page.evaluate("performance.now()")
    until(page, "lane.stateName === 'ended'")
    assert page.evaluate("performance.now()") - began > len(speech) / 16 - 1000
    sound = np.array(lane(page, "Array.from(lane.sound.read(0, lane.sound.total))"), np.int32)
    assert len(sound) == len(speech)
    assert np.abs(sound - speech).max() <= 1  # Chromium divides by 32767 or 32768, by the sign
    assert lane(page, "lane.timeline.finals.map((final) => final.text)") == texts(recogniser, sound.astype(np.int16))
    assert page.locator(".lane .pill").text_content() == "○ Ended"
    assert lane(page, "lane.dropped") == 0
    assert page.locator(".lane-name").text_content() == recording.name


@pytest.fixture(scope="module")
def conversation(speech, audio_folder, tmp_path_factory) -> tuple[Path, int]:
    """Somebody says digits, then somebody else a sentence: the file, and its samples."""
    sentence, _ = soundfile.read(audio_folder / "sentence_tureen.opus", dtype="int16")
    gap = np.random.default_rng(0).normal(0, 3, 20_000).astype(np.int16)
    sound = np.concatenate([speech[: round(3.6 * 16_000)], gap, sentence, gap])
    path = tmp_path_factory.mktemp("sound") / "conversation.wav"
    soundfile.write(path, sound, 16_000, subtype="PCM_16")
    return path, len(sound)


def test_speakers_are_told(visit, server, conversation, lane, until):
    """Two people: their names are in the lane, before their words in the transcript, and in saved files."""
    recording, samples = conversation
    page = visit(server.url)
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Tell speakers apart").check()
    page.locator("#file").set_input_files(recording)
    until(page, "lane.stateName === 'ended'")
    spans = lane(page, "lane.timeline.speakers")
    assert {"speaker 1", "speaker 2"} <= {span["speaker"] for span in spans}
    assert all(0 <= span["start"] < span["end"] <= samples + 1600 for span in spans)
    finals = lane(page, "lane.timeline.finals")
    assert finals[0]["speakers"] == ["speaker 1"]
    assert "speaker 2" in finals[1]["speakers"]
    assert page.locator("#finals li").first.locator(".speaker").all_text_contents() == ["speaker 1:"]
    text = page.evaluate(
        "import('/web/transcript_files.js').then(({ transcriptFile }) =>"
        " transcriptFile('txt', wavlmLive.transcript.finals))"
    )
    assert "speaker 1: " in text
    assert "speaker 2: " in text


def test_what_was_said_survives_a_restart_of_the_server(
    visit, start_server, recording, speech, lane, until, recogniser
):
    before = start_server()
    page = visit(before.url)
    page.locator("#file").set_input_files(recording)
    until(page, "lane.seconds > 3.4")  # in the pause between the groups
    before.stop()
    until(page, "['broken', 'unreachable'].includes(lane.stateName)")
    assert "nothing is lost" in page.locator(".advice").first.text_content()
    start_server(port=before.port)
    until(page, "lane.stateName === 'ended'")
    said = " ".join(lane(page, "lane.timeline.finals.map((final) => final.text)"))
    assert said.split() == " ".join(texts(recogniser, speech)).split() or len(said.split()) >= 7
    for final in lane(page, "lane.timeline.finals"):
        assert 0 <= final["start"] < final["end"] <= len(speech)
    # nothing was said twice: words stand one behind the other
    starts = lane(page, "lane.timeline.finals.flatMap((final) => final.words).map((word) => word.start)")
    assert starts == sorted(starts)


def test_a_broken_connection_loses_nothing(visit, server, recording, lane, until, recogniser):
    """Cut three times within words, the stream goes on where it was: the finals are those of an unbroken run."""
    page = visit(server.url)
    page.locator("#file").set_input_files(recording)
    session = None
    for at in (1.1, 3.0, 5.7):
        until(page, f"lane.stateName === 'playing' && lane.seconds > {at}")
        session = session or lane(page, "lane.ready.session")
        lane(page, "lane.connection.socket.close(4000)")
        until(page, "lane.stateName !== 'playing'")
    until(page, "lane.stateName === 'ended'")
    assert lane(page, "lane.ready.session") == session
    assert lane(page, "lane.ready.resumed") == "held"
    sound = np.array(lane(page, "Array.from(lane.sound.read(0, lane.sound.total))"), np.int16)
    assert lane(page, "lane.timeline.finals.map((final) => final.text)") == texts(recogniser, sound)
    assert lane(page, "lane.timeline.origin") == 0

"""The page around the lanes: transcript, settings, keyboard, accessibility, headers."""

from __future__ import annotations

import json
import time
from pathlib import Path

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe

from wavlm_live.streamer import Recogniser
from wavlm_live.streamer.web import Pages


@pytest.fixture(scope="module")
def said(chromium, server, recording, until):
    """A page whose file lane has come to its end, and that has listened to nothing else."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(90_000)
    page.goto(server.url)
    page.locator("#file").set_input_files(recording)
    until(page, "lane.stateName === 'ended'")
    yield page
    context.close()


def violations(page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [
        f"{v['id']}: {v['help']}: {n['html'][:200]} {n.get('failureSummary', '')}" for v in found for n in v["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_axe_finds_nothing(said, scheme, width):
    said.emulate_media(color_scheme=scheme)
    said.set_viewport_size({"width": width, "height": 800})
    assert said.locator("#finals li").count() >= 2
    assert violations(said) == []
    said.get_by_role("button", name="Settings").click()
    assert violations(said) == []
    assert said.evaluate("document.scrollingElement.scrollWidth") <= width, "nothing reaches beyond the screen"
    said.get_by_role("button", name="Settings").click()


def test_only_finals_are_read_out(said):
    live = said.locator("[aria-live]:not([aria-live=off])")
    assert live.count() == 1
    assert live.get_attribute("id") == "finals"
    assert (
        said.locator(".partial").evaluate("(node) => node.closest('[aria-live], [role=status], [role=alert]')") is None
    )
    meter = said.get_by_role("meter")
    assert meter.get_attribute("aria-valuemin") == "-60"
    assert said.get_by_role("img").get_attribute("aria-label").startswith("Picture of the sound of speech.wav")


def test_search_finds_sentences(said):
    texts = said.locator("#finals .words").all_text_contents()
    word = texts[1].split()[0]
    expected = [t for t in texts if word in t]
    said.keyboard.press("/")
    said.keyboard.type(word)
    said.wait_for_timeout(400)
    assert said.locator("#finals .words").all_text_contents() == expected
    assert said.locator("#search-count").text_content() == f"{len(expected)} of {len(texts)} sentences"
    said.get_by_role("searchbox").fill("")
    said.wait_for_timeout(400)
    assert said.locator("#finals .words").all_text_contents() == texts


def test_a_word_is_heard_again(said):
    """A click plays exactly the word's sound, with a little before and after, as measured where it is played."""
    said.evaluate(
        """() => {
          window.played = [];
          const start = AudioBufferSourceNode.prototype.start;
          AudioBufferSourceNode.prototype.start = function (...given) {
            window.played.push(Array.from(this.buffer.getChannelData(0)));
            return start.apply(this, given);
          };
        }"""
    )
    said.locator("#finals .word").nth(1).click()
    heard, kept = said.evaluate(
        """() => {
          const { lane } = [...wavlmLive.panels][0];
          const word = lane.timeline.finals[0].words[1];
          return [window.played[0], Array.from(lane.sound.read(word.start - 1280, word.end + 1920))];
        }"""
    )
    assert [round(v * 32768) for v in heard] == kept
    assert said.locator("#transcript-note").text_content() == ""


def test_the_keyboard_reaches_every_word(said):
    words = said.locator("#finals .word")
    assert said.locator("#finals .word[tabindex='0']").count() == 1
    words.first.focus()
    said.keyboard.press("ArrowRight")
    assert words.nth(1).evaluate("(node) => node === document.activeElement")
    said.keyboard.press("ArrowDown")
    item = said.locator("#finals li").nth(1).locator(".word").first
    assert item.evaluate("(node) => node === document.activeElement")
    said.keyboard.press("ArrowUp")
    assert words.first.evaluate("(node) => node === document.activeElement")
    assert words.first.get_attribute("title").endswith("seconds")


def test_transcripts_are_saved(said):
    for format in ("txt", "srt", "vtt", "json"):
        with said.expect_download() as download:
            said.get_by_role("button", name=format, exact=True).click()
        assert download.value.suggested_filename.endswith(f".{format}")
        text = Path(download.value.path()).read_text(encoding="utf-8")
        first = said.locator("#finals .words").first.text_content().split()
        if format == "json":
            assert json.loads(text)["segments"][0]["text"].split() == first
        else:
            assert " ".join(first) in text.replace("\n", " ")


def test_settings_change_a_running_lane(visit, server, lane, until, eventually):
    """Threshold and pause change the stream that runs; another context begins a new one at the same place."""
    page = visit(server.url)
    page.get_by_role("button", name="Microphone").click()
    until(page, "lane.stateName === 'live' && lane.timeline.heard > 16000")
    assert page.locator("#model").text_content() == "english"
    page.get_by_role("button", name="Settings").click()
    session = lane(page, "lane.ready.session")
    page.get_by_label("Silence that ends a sentence").fill("400")
    page.get_by_label("Speech begins at").fill("0.7")
    until(page, "lane.threshold === 0.7 && lane.settings.endpoint.silence_ms === 400")
    listening = lambda: [stream.session.settings for stream in server.batcher.streams]  # noqa: E731
    end = time.monotonic() + 60
    while not any(s.endpoint.silence_ms == 400 and s.speech.start_probability == 0.7 for s in listening()):
        assert time.monotonic() < end, listening()
        page.wait_for_timeout(50)
    assert lane(page, "lane.ready.session") == session
    page.get_by_label("Context", exact=True).select_option("low")
    until(page, "lane.ready.context === '250,8,8'")
    assert lane(page, "lane.ready.session") != session
    before = lane(page, "lane.timeline.heard")
    until(page, f"lane.timeline.heard > {before} + 16000")
    assert lane(page, "lane.timeline.origin") > 16_000
    assert page.locator("#note").text_content() == ""


def test_another_model_goes_on_in_the_same_lane(visit, start_server, tiny_model, lane, until):
    """Chosen live: a new stream of that model at the same place, with its contexts; back again just so."""
    tiny = Recogniser.load(tiny_model, "cpu")
    server = start_server(also=[tiny])
    page = visit(server.url)
    page.get_by_role("button", name="Settings").click()
    choice, context = page.get_by_label("Model", exact=True), page.get_by_label("Context", exact=True)
    assert choice.locator("option").all_text_contents() == ["english (the server's default)", tiny.name]
    assert not page.locator("#model-line").is_visible()
    assert page.get_by_label("Tell speakers apart").is_enabled()
    page.get_by_role("button", name="Microphone").click()
    until(page, "lane.stateName === 'live' && lane.timeline.heard > 16000")
    first = lane(page, "({ model: lane.ready.model, session: lane.ready.session })")
    assert first["model"] == "english"
    choice.select_option(tiny.name)
    until(page, f"lane.ready.model === {json.dumps(tiny.name)} && lane.ready.context === '100,16,4'")
    assert lane(page, "lane.ready.session") != first["session"]
    assert context.locator("option").all_text_contents() == ["default: 320 ms + 80 ahead", "low: 80 ms"]
    assert not page.get_by_label("Tell speakers apart").is_enabled()
    before = lane(page, "lane.timeline.heard")
    assert before > 16_000
    until(page, f"lane.timeline.heard > {before} + 16000")
    context.select_option("low")
    until(page, "lane.ready.context === '100,4,0'")
    page.get_by_label("Left, ms").fill("1000")  # what is left open is filled in from this model's context
    until(page, "lane.ready.context === '50,4,0'")
    page.get_by_role("button", name="Back to the defaults").click()
    until(page, "lane.ready.model === 'english' && lane.ready.context === '250,32,8'")
    assert choice.input_value() == ""
    assert page.get_by_label("Tell speakers apart").is_enabled()
    assert page.locator("#note").text_content() == ""


def test_one_model_is_only_named(visit, server):
    page = visit(server.url)
    page.get_by_role("button", name="Settings").click()
    assert page.locator("#model-line").is_visible()
    assert not page.locator("#model-choice").is_visible()


def test_reduced_motion_turns_pages(visit, server, recording, until):
    page = visit(server.url, reduced_motion="reduce")
    page.locator("#file").set_input_files(recording)
    until(page, "lane.seconds > 1.5")
    head = "[...wavlmLive.panels][0].view.lastHead"
    first = page.evaluate(head)
    page.wait_for_timeout(700)
    assert page.evaluate(head) == first == 10 * 16_000


def test_files_are_protected_and_nothing_else_is_given(server):
    pages = Pages()
    assert "/" in pages.paths
    assert "/web/main.js" in pages.paths
    with httpx.Client(base_url=server.url) as client:
        for path in pages.paths:
            answer = client.get(path)
            assert answer.status_code == 200
            assert answer.content == pages.find(path).body
            policy = answer.headers["content-security-policy"]
            assert "script-src 'self';" in policy
            assert "unsafe" not in policy
            assert "default-src 'none'" in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            again = client.get(path, headers={"if-none-match": answer.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
        for path in ("/web/__init__.py", "/web/..%2fcli.py", "/web/%2e%2e/cli.py", "/web/", "/web/none.js"):
            assert client.get(path).status_code == 404, path
        text = client.get("/").text
        assert "<style" not in text
        assert " style=" not in text
        assert text.count("<script") == text.count('<script type="module" src=')
        assert "http://" not in text.replace("http://localhost", "")
        assert "https://" not in text

"""Everything that may be wrong is told in words, with what to do about it."""

from __future__ import annotations

import pytest

from wavlm_live.streamer.server.keys import make_key


def told(page) -> tuple[str, str]:
    return page.locator(".lane .pill").text_content(), page.locator(".lane .advice").text_content()


def start(page) -> None:
    page.get_by_role("button", name="Microphone").click()


def test_permission_denied(launch, visit, server, until):
    browser = launch("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream=deny")
    try:
        page = visit(server.url, browser)
        start(page)
        until(page, "lane.stateName === 'denied'")
        label, advice = told(page)
        assert label == "▲ Microphone not allowed"
        assert "allow the microphone, then start again" in advice
        assert page.get_by_role("button", name="Start again").is_visible()
        page.context.close()
    finally:
        browser.close()
    assert server.batcher.statistics().sessions == 0, "a page without a microphone takes no place"


def test_no_microphone(launch, visit, server, until):
    browser = launch("--use-fake-ui-for-media-stream")
    try:
        page = visit(server.url, browser)
        if page.evaluate(
            "navigator.mediaDevices.enumerateDevices().then((all) => all.some((d) => d.kind === 'audioinput'))"
        ):
            pytest.skip("this machine has a microphone")
        start(page)
        until(page, "lane.stateName === 'no_microphone'")
        label, advice = told(page)
        assert label == "▲ No microphone found"
        assert "Plug one in" in advice
        page.context.close()
    finally:
        browser.close()


def test_no_server(visit, start_server, until, eventually):
    server = start_server()
    page = visit(server.url)
    server.stop()
    start(page)
    until(page, "lane.stateName === 'unreachable'")
    label, advice = told(page)
    assert label == "▲ No server"
    assert "wavlm-live serve" in advice
    assert "Next try in" in advice
    eventually(page, "document.querySelector('#server').textContent === '▲ No server'")
    start_server(port=server.port)
    until(page, "lane.stateName === 'live'")
    assert told(page)[0] == "● Listening"


def test_full_server(visit, start_server, until):
    server = start_server(most_sessions=1)
    first, second = visit(server.url), visit(server.url)
    start(first)
    until(first, "lane.stateName === 'live'")
    start(second)
    until(second, "lane.stateName === 'full'")
    label, advice = told(second)
    assert label == "▲ Server full"
    assert "All places are taken" in advice
    assert second.get_by_role("button", name="Try now").is_visible()
    first.get_by_role("button", name="Stop").click()
    until(second, "lane.stateName === 'live'")


def test_bad_key(visit, start_server, until):
    key, line = make_key("someone")
    server = start_server(keys=(line,))
    page = visit(server.url)
    start(page)
    until(page, "lane.stateName === 'refused'")
    label, advice = told(page)
    assert label == "▲ Key not accepted"
    assert "Enter the API key" in advice
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Start again").click()
    until(page, "lane.stateName === 'live'")
    assert not page.evaluate("JSON.stringify({...localStorage, ...sessionStorage})").count(key), "keys are not stored"


def test_a_file_that_is_none(visit, server, until, tmp_path):
    path = tmp_path / "letter.wav"
    path.write_text("Dear sound,")
    page = visit(server.url)
    page.locator("#file").set_input_files(path)
    until(page, "lane.stateName === 'bad_file'")
    label, advice = told(page)
    assert label == "▲ Not a recording"
    assert "wavlm-live transcribe" in advice

"""The demo of a lane in one's own page: it hears, draws, and tells the page when somebody speaks."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parents[3] / "demos" / "voice_activity_dashboard" / "serve.py"


@pytest.fixture
def address():
    process = subprocess.Popen(
        [sys.executable, DEMO, "--port", "8799"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    url = process.stdout.readline().strip()
    assert url.startswith("http://127.0.0.1:8799"), url
    yield url
    process.terminate()
    process.wait(30)
    process.stdout.close()


def test_a_lane_in_ones_own_page(address, chromium):
    context = chromium.new_context(color_scheme="light")
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    for _ in range(100):  # the address is printed a little before the socket listens
        try:
            page.goto(address)
            break
        except Exception:
            time.sleep(0.2)
    page.get_by_role("button", name="Listen").click()
    spoken, end = False, time.monotonic() + 60
    while page.title() == "My page":
        assert time.monotonic() < end, page.locator("body").inner_text()
        spoken |= page.locator("#now").text_content() == "somebody speaks"
        page.wait_for_timeout(50)
    assert spoken
    assert len(page.title().split()) >= 3
    # the picture is drawn: more than its background
    colours = page.evaluate(
        """() => {
          const seen = new Set();
          for (const canvas of document.querySelectorAll('canvas')) {
            const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
            for (const colour of new Uint32Array(data.buffer)) seen.add(colour);
          }
          return seen.size;
        }"""
    )
    assert colours > 20
    assert not errors
    context.close()

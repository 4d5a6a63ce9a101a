"""Take the pictures of the dashboard that the documentation shows, from a real server in Chromium.

    pip install playwright pillow
    python docs/record_dashboard.py docs RECORDING.wav

The recording stands in for the microphone. Pictures are reduced to 160 colours.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from wavlm_live.streamer import Recogniser
from wavlm_live.streamer.admission import BatcherRules
from wavlm_live.streamer.batcher import Batcher
from wavlm_live.streamer.client import Client
from wavlm_live.streamer.server.keys import make_key
from wavlm_live.streamer.server.run import serve
from wavlm_live.streamer.server.settings import ServerSettings

HEARD_S = 13
FAKE = ("--use-fake-device-for-media-stream",)


class Server:
    """A server in a thread."""

    url: str
    stop: Callable[[], None]

    def __init__(self, recogniser: Recogniser, rules: BatcherRules | None = None, **settings: object) -> None:
        started = threading.Event()
        rules = rules or BatcherRules(most_load=10.0, late_s=3600.0, calibrate=False)

        def run() -> None:
            def tell(addresses, stop) -> None:
                self.url, self.stop = f"http://127.0.0.1:{addresses.port}/", stop
                started.set()

            with Batcher(recogniser, rules) as batcher:
                asyncio.run(serve(batcher, ServerSettings(port=0, **settings), tell))  # type: ignore[arg-type]

        threading.Thread(target=run, daemon=True).start()
        started.wait(60)


def small(path: Path) -> None:
    Image.open(path).convert("RGB").quantize(160, dither=Image.Dither.NONE).save(path, optimize=True)


def save(page: Page, path: Path) -> None:
    page.screenshot(path=path)
    small(path)


def save_lane(page: Page, path: Path) -> None:
    """The newest lane alone."""
    page.wait_for_timeout(300)
    page.locator("section.lane").first.screenshot(path=path)
    small(path)


def wait(page: Page, what: str) -> None:
    while not page.evaluate(f"(() => {{ const lane = [...wavlmLive.panels][0]?.lane; return {what}; }})()"):
        page.wait_for_timeout(50)


def lanes(browser: Browser, server: Server, recording: Path, folder: Path) -> None:
    """A microphone and a file: light; dark with settings and speakers; narrow."""
    page = browser.new_page(viewport={"width": 1280, "height": 640}, color_scheme="light")
    page.goto(server.url)
    page.locator("#settings-toggle").click()
    page.get_by_label("Tell speakers apart").check()
    page.locator("#settings-toggle").click()
    page.locator("#microphone-start").click()
    page.locator("#file").set_input_files(recording)
    wait(page, f"lane?.seconds > {HEARD_S}")
    page.evaluate("document.activeElement.blur()")
    save(page, folder / "dashboard_light.png")
    page.emulate_media(color_scheme="dark")
    page.locator("#settings-toggle").click()
    page.set_viewport_size({"width": 1280, "height": 860})
    page.wait_for_timeout(500)
    save(page, folder / "dashboard_dark.png")
    page.locator("#settings-toggle").click()
    page.set_viewport_size({"width": 360, "height": 720})
    page.wait_for_timeout(500)
    save(page, folder / "dashboard_narrow.png")
    page.close()


def operator(browser: Browser, recogniser: Recogniser, recording: Path, folder: Path) -> None:
    """Two sessions of others, seen by an operator."""
    key, line = make_key("operator")
    server = Server(recogniser, keys=(line,))
    samples, _ = soundfile.read(recording, dtype="float32")

    def speak(start: int) -> None:
        def blocks() -> Iterator[np.ndarray]:
            for at in range(start, start + 14 * 16_000, 1600):
                time.sleep(0.1)
                yield samples[at : at + 1600]

        client = Client(f"ws://{server.url[7:]}v1/stream", {"activity": True}, key=key)
        for _ in client.transcribe(blocks()):
            pass

    page = browser.new_page(viewport={"width": 1280, "height": 880}, color_scheme="light")
    page.goto(server.url)
    page.locator("#settings-toggle").click()
    page.get_by_label("API key").fill(key)
    page.locator("#settings-toggle").click()
    page.get_by_role("button", name="Watch all sessions").click()
    speakers = [threading.Thread(target=speak, args=(start,)) for start in (0, 4 * 16_000)]
    for speaker in speakers:
        speaker.start()
    page.wait_for_timeout(12_000)
    save(page, folder / "dashboard_operator.png")
    for speaker in speakers:
        speaker.join()
    page.close()


def states(launch: Callable[..., Browser], recogniser: Recogniser, folder: Path) -> None:
    """What is told where something is wrong."""

    def shown(browser: Browser, server: Server, scheme: Literal["light", "dark"]) -> Page:
        page = browser.new_page(viewport={"width": 720, "height": 700}, color_scheme=scheme)
        page.goto(server.url)
        page.wait_for_timeout(300)
        return page

    allowed = "--use-fake-ui-for-media-stream"
    for name, arguments in (("denied", (*FAKE, f"{allowed}=deny")), ("no_microphone", (allowed,))):
        browser = launch(*arguments)
        page = shown(browser, Server(recogniser), "dark" if name == "denied" else "light")
        page.locator("#microphone-start").click()
        wait(page, f"lane?.stateName === '{name}'")
        save_lane(page, folder / f"dashboard_{name}.png")
        browser.close()
    browser = launch(*FAKE, allowed)
    page = shown(browser, Server(recogniser, keys=("a-key-that-nobody-knows-0123",)), "light")
    page.locator("#microphone-start").click()
    wait(page, "lane?.stateName === 'refused'")
    save_lane(page, folder / "dashboard_key.png")
    server = Server(recogniser, BatcherRules(most_sessions=1, most_load=10.0, late_s=3600.0, calibrate=False))
    first, page = shown(browser, server, "light"), shown(browser, server, "dark")
    first.locator("#microphone-start").click()
    wait(first, "lane?.stateName === 'live'")
    page.locator("#microphone-start").click()
    wait(page, "lane?.stateName === 'full'")
    save_lane(page, folder / "dashboard_full.png")
    wait(first, "lane?.seconds > 4")
    first.evaluate("[...wavlmLive.panels][0].lane.connection.socket.close(4000)")
    wait(first, "lane?.stateName === 'broken'")
    first.locator("section.lane").first.screenshot(path=folder / "dashboard_broken.png")
    small(folder / "dashboard_broken.png")
    page = shown(browser, server, "dark")
    server.stop()
    page.wait_for_timeout(1000)
    page.locator("#microphone-start").click()
    wait(page, "lane?.stateName === 'unreachable'")
    save_lane(page, folder / "dashboard_unreachable.png")
    browser.close()


def main() -> None:
    folder, recording = Path(sys.argv[1]), Path(sys.argv[2]).resolve()
    recogniser = Recogniser.load(device="cpu")
    with sync_playwright() as driver:

        def launch(*arguments: str) -> Browser:
            heard = f"--use-file-for-fake-audio-capture={recording}%noloop"
            return driver.chromium.launch(executable_path=shutil.which("chromium"), args=[*arguments, heard])

        browser = launch(*FAKE, "--use-fake-ui-for-media-stream")
        lanes(browser, Server(recogniser), recording, folder)
        operator(browser, recogniser, recording, folder)
        browser.close()
        states(launch, recogniser, folder)


if __name__ == "__main__":
    main()

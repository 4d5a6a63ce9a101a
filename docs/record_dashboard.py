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
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from wavlm_live.streamer import Recogniser
from wavlm_live.streamer.batcher import Batcher, BatcherRules
from wavlm_live.streamer.server.run import serve
from wavlm_live.streamer.server.settings import ServerSettings

HEARD_S = 13


class Server:
    """A server in a thread."""

    def __init__(self, recogniser: Recogniser, **settings: object) -> None:
        started = threading.Event()

        def run() -> None:
            def tell(addresses, stop) -> None:
                self.url, self.stop = f"http://127.0.0.1:{addresses.port}/", stop
                started.set()

            rules = BatcherRules(most_load=10.0, late_s=3600.0, calibrate=False)
            with Batcher(recogniser, rules) as batcher:
                asyncio.run(serve(batcher, ServerSettings(port=0, **settings), tell))  # type: ignore[arg-type]

        threading.Thread(target=run, daemon=True).start()
        started.wait(60)


def save(page: Page, path: Path) -> None:
    page.screenshot(path=path)
    Image.open(path).convert("RGB").quantize(160, dither=Image.Dither.NONE).save(path, optimize=True)


def wait(page: Page, what: str) -> None:
    while not page.evaluate(f"(() => {{ const lane = [...wavlmLive.panels][0]?.lane; return {what}; }})()"):
        page.wait_for_timeout(50)


def main() -> None:
    folder, recording = Path(sys.argv[1]), Path(sys.argv[2]).resolve()
    recogniser = Recogniser.load(device="cpu")
    server = Server(recogniser)
    locked = Server(recogniser, keys=("a-key-that-nobody-knows-0123",))
    fake = ["--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={recording}%noloop"]
    with sync_playwright() as driver:
        start = lambda *more: driver.chromium.launch(executable_path=shutil.which("chromium"), args=[*fake, *more])  # noqa: E731
        browser = start("--use-fake-ui-for-media-stream")
        wide = {"width": 1280, "height": 640}
        page = browser.new_page(viewport=wide, color_scheme="light")
        page.goto(server.url)
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
        page = browser.new_page(viewport={"width": 1000, "height": 380}, color_scheme="light")
        page.goto(locked.url)
        page.locator("#microphone-start").click()
        wait(page, "lane?.stateName === 'refused'")
        save(page, folder / "dashboard_key.png")
        browser.close()
        browser = start("--use-fake-ui-for-media-stream=deny")
        page = browser.new_page(viewport={"width": 1000, "height": 380}, color_scheme="dark")
        page.goto(server.url)
        page.locator("#microphone-start").click()
        wait(page, "lane?.stateName === 'denied'")
        save(page, folder / "dashboard_denied.png")
        browser.close()


if __name__ == "__main__":
    main()

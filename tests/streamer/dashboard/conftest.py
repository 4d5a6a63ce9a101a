"""A real server in a thread, and Debian's Chromium with a recording in place of a microphone."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wavlm_live.streamer import Recogniser
from wavlm_live.streamer.batcher import Batcher, BatcherRules
from wavlm_live.streamer.server.run import serve
from wavlm_live.streamer.server.settings import ServerSettings
from wavlm_live.streamer.shared_device import SharedDevice

playwright = pytest.importorskip("playwright.sync_api", reason="the dashboard's tests need playwright")
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("the dashboard's tests need chromium: apt-get install chromium", allow_module_level=True)

PATIENCE_MS = 90_000
"""The machine may be busy; nothing is measured here."""
FAKE = ["--use-fake-device-for-media-stream", "--autoplay-policy=no-user-gesture-required"]


class Running:
    """A server in a thread of this process.

    Args:
        recogniser: of its model.
        port: 0 for any.
        most_sessions: when it is full.
        also: further models.
        settings: further ones of the server.
    """

    def __init__(
        self,
        recogniser: Recogniser,
        port: int = 0,
        most_sessions: int = 16,
        also: Sequence[Recogniser] = (),
        **settings,
    ) -> None:
        # a busy machine is no reason to refuse, and nothing has to be measured first
        self._rules = BatcherRules(most_sessions=most_sessions, most_load=10.0, late_s=3600.0, calibrate=False)
        self._recognisers, self._settings = [recogniser, *also], ServerSettings(port=port, **settings)
        self._started, self._error = threading.Event(), None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._started.wait(60)
        assert self._error is None, self._error

    def _run(self) -> None:
        def started(addresses, stop):
            self.port, self._stop = addresses.port, stop
            self._started.set()

        try:
            device = SharedDevice()
            with ExitStack() as stack:
                batchers = [stack.enter_context(Batcher(r, self._rules, device=device)) for r in self._recognisers]
                self.batcher = batchers[0]
                asyncio.run(serve(batchers, self._settings, started))
        except BaseException as error:
            self._error = error
            self._started.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def stop(self) -> None:
        self._stop()
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.fixture(scope="session")
def recogniser() -> Recogniser:
    return Recogniser.load(device="cpu")


@pytest.fixture(scope="module")
def server(recogniser) -> Iterator[Running]:
    running = Running(recogniser)
    yield running
    running.stop()


@pytest.fixture
def start_server(recogniser) -> Iterator:
    """Starts servers that the test stops, or this does."""
    started: list[Running] = []

    def start(**settings) -> Running:
        started.append(Running(recogniser, **settings))
        return started[-1]

    yield start
    for running in started:
        if running._thread.is_alive():
            running.stop()


@pytest.fixture(scope="session")
def speech(audio_folder: Path) -> np.ndarray:
    """Two groups of words with a pause of a second, int16 at 16 kHz."""
    samples, _ = soundfile.read(audio_folder / "digits_and_commands.flac", dtype="int16")
    return samples[: round(9.2 * 16_000)]


@pytest.fixture(scope="session")
def recording(speech, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "speech.wav"
    soundfile.write(path, speech, 16_000, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def driver() -> Iterator:
    """Ends with its file: while it lives an event loop counts as running, and tests elsewhere start their own."""
    with playwright.sync_playwright() as driver:
        yield driver


@pytest.fixture(scope="module")
def launch(driver):
    """Starts Chromium with further arguments."""
    return lambda *arguments: driver.chromium.launch(executable_path=CHROMIUM, args=list(arguments))


@pytest.fixture(scope="module")
def chromium(launch, recording) -> Iterator:
    """With a microphone that hears the recording once, and permission for it."""
    browser = launch(*FAKE, "--use-fake-ui-for-media-stream", f"--use-file-for-fake-audio-capture={recording}%noloop")
    yield browser
    browser.close()


@pytest.fixture
def visit(chromium) -> Iterator:
    """Opens pages; at the end no script may have failed."""
    contexts, errors = [], []

    def visit(url: str, browser=chromium, **options):
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | options))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: errors.append(str(error)))
        # a policy that blocks something says so here
        page.on("console", lambda m: errors.append(m.text) if "Content Security Policy" in m.text else None)
        page.goto(url)
        wait_for(page, "window.wavlmLive !== undefined")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not errors


def wait_for(page, what: str) -> None:
    """Playwright's own waiting evaluates text within the page, which the page's policy forbids, as it should."""
    end = time.monotonic() + PATIENCE_MS / 1000
    while not page.evaluate(what):
        assert time.monotonic() < end, f"never true: {what}; the page shows {page.locator('body').inner_text()[:2000]}"
        page.wait_for_timeout(50)


LANE = "[...wavlmLive.panels][0].lane"


@pytest.fixture(scope="session")
def lane():
    """Asks the newest lane of a page something: `lane(page, "name")`."""
    return lambda page, what: page.evaluate(f"(() => {{ const lane = {LANE}; return {what}; }})()")


@pytest.fixture(scope="session")
def until():
    """Waits until something is true of the newest lane of a page."""
    return lambda page, what: wait_for(page, f"(() => {{ const lane = {LANE}; return {what}; }})()")


@pytest.fixture(scope="session")
def eventually():
    """Waits until something is true within a page."""
    return wait_for

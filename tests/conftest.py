"""Shared by all tests: the installed package is tested, never the folders of the repository."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if not torch.cuda.is_available():
    # before anything imports triton: where there is no GPU, kernels can only run in its interpreter
    os.environ.setdefault("TRITON_INTERPRET", "1")

# How long an example takes says nothing on a machine that others use. CI draws the same examples every time: a change
# must not be refused for an old fault that chance found just then; everybody else draws new ones.
settings.register_profile("wavlm-live", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("wavlm-live")


def pytest_configure(config: pytest.Config) -> None:
    # A background job of a shell starts with Ctrl+C ignored, and so would all programs that the tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)

    # many small tensors: a second thread only waits, and the suite may share its cores
    torch.set_num_threads(int(os.environ.get("WAVLM_LIVE_TEST_THREADS", "1")))


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A fresh seed for each run, printed when the test fails; WAVLM_LIVE_TEST_SEED repeats one."""
    value = int(os.environ.get("WAVLM_LIVE_TEST_SEED", random.SystemRandom().randrange(1 << 31)))
    print(f"seed {value} (repeat with WAVLM_LIVE_TEST_SEED={value})")  # noqa: T201
    torch.manual_seed(value)
    return value


@pytest.fixture(scope="session")
def audio_folder() -> Path:
    """The small real recordings."""
    return ROOT / "tests" / "audio"


REAL_TIME = (
    "/server/", "/dashboard/", "test_demos", "test_listen", "test_overload", "test_pipes", "test_shared_overload",
    "test_thread_choice", "test_transcribe", "test_voice_sign",
)  # fmt: skip
"""Tests with sockets, browsers, terminals, signals and clocks of their own, by a part of their path."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device: this has not been run here"))
    # A busy machine tears holes into sound that is played and recorded in real time, and lets others wait too long.
    # What is tried again is shown as such; a fault that is always there fails all the same.
    for item in items:
        if item.get_closest_marker("microphone") or any(part in item.path.as_posix() for part in REAL_TIME):
            item.add_marker(pytest.mark.flaky(reruns=2, reruns_delay=1))

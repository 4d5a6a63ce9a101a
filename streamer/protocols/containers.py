"""Sound in containers, decoded while it arrives: Ogg and WebM with Opus, WAV, FLAC."""

from __future__ import annotations

from .flac import Flac
from .ogg import Ogg
from .packets import Container
from .wav import Wav
from .webm import WebM

CONTAINERS: dict[str, type[Container]] = {"ogg_opus": Ogg, "webm_opus": WebM, "wav": Wav, "flac": Flac}


def open_container(encoding: str) -> Container:
    """The decoder of a container, by the name of its encoding."""
    return CONTAINERS[encoding]()

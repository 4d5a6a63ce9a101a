"""`wavlm-live enroll`: a speaker's recordings to a vector in a local file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .interrupts import Interruption
from .options import UsageError, as_usage
from .sources import open_source
from .terminal import Terminal


@dataclass(frozen=True)
class EnrolRequest:
    """What a user asked of `enroll`."""

    name: str
    files: tuple[str, ...]
    path: Path
    """File of known speakers."""
    remove: bool = False
    model: str | None = None
    device: str = "auto"
    channel: int | None = None
    threads: int | None = None


def enroll(request: EnrolRequest, terminal: Terminal, interruption: Interruption) -> int:
    """Add the speaker to the file, or take him out.

    Returns:
        The exit code.

    Raises:
        UsageError: a name that cannot be used, no recordings, or a file of another model; nothing was changed.
        AudioError: a recording that cannot be read, or too little speech; nothing was changed.
        OutputError: the file cannot be written.
    """
    from .known_speakers import check_name, enrolled, load_file, without

    with as_usage():
        check_name(request.name)
        if request.remove:
            if request.files:
                raise UsageError("--remove takes a name alone, recordings were given too")
            left = without(request.path, request.name)
            terminal.note(f"{request.name}: taken out of {request.path}, which holds {len(left.speakers)} speaker(s)")
            return 0
        if not request.files:
            raise UsageError(f"no recording of {request.name!r} was given; give one file or more")
        if request.path.exists():
            load_file(request.path)
    import torch

    from .enrolment import Enrolment
    from .recogniser import Recogniser

    if request.threads is not None:
        torch.set_num_threads(request.threads)
    sounds = []
    for file in request.files:  # opened before the model is loaded: a wrong name should be told at once
        with open_source(file, channel=request.channel, block_samples=16_000) as source, interruption.waiting():
            blocks = list(source)
            sounds.append(np.concatenate(blocks) if blocks else np.zeros(0, np.float32))
            for problem in source.problems:
                terminal.warn(problem)
    with interruption.waiting():
        terminal.wait("Loading the model ...")
        recogniser = Recogniser.load(request.model, request.device, "auto")
        with as_usage():
            enrolment = Enrolment(recogniser)
        terminal.erase()
        for file, sound in zip(request.files, sounds, strict=True):
            terminal.note(f"{file}: {enrolment.hear(sound):.1f} s of speech")
        found = enrolment.result()
    heads = recogniser.voice_heads()
    with as_usage():
        content = enrolled(request.path, heads.identity, request.name, found.vector, found.speech_s)
    if found.alike < heads.numbers.new_below:
        terminal.warn(
            f"the recordings of {request.name} are little alike ({found.alike:.2f}): is somebody else in them?"
        )
    terminal.note(
        f"{request.name}: {found.speech_s:.1f} s of speech in {request.path}, which holds {len(content.speakers)} "
        "speaker(s)"
    )
    return 0

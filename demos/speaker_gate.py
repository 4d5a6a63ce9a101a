"""Only the enrolled speaker is transcribed: what others say is left out.

    python demos/speaker_gate.py my_voice.wav                       the microphone, until Ctrl+C
    python demos/speaker_gate.py my_voice.wav --file meeting.flac   a recording instead

my_voice.wav holds at least 3 s, better 20 s, of that one person (several files may be given). A voice is no password:
whoever sounds alike, or plays a recording, gets in.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from wavlm_live.streamer import Event, Final, Recogniser, SessionSettings, Speaker
from wavlm_live.streamer.enrolment import Enrolment
from wavlm_live.streamer.known_speakers import enrolled
from wavlm_live.streamer.sources import FileSource, MicrophoneSource
from wavlm_live.streamer.speakers import SpeakerRules

NAME = "me"


def enrol(recogniser: Recogniser, recordings: list[str], path: Path) -> None:
    """Write the voice in these recordings, a vector, to a file."""
    enrolment = Enrolment(recogniser)
    for recording in recordings:
        with FileSource(recording) as source:
            enrolment.hear(np.concatenate(list(source)))
    found = enrolment.result()
    enrolled(path, recogniser.voice_heads().identity, NAME, found.vector, found.speech_s)


def show(events: list[Event]) -> None:
    """Print the words of whoever was enrolled."""
    for event in events:
        if isinstance(event, Speaker) and event.speaker != NAME:
            at_s, s = event.start_samples / 16_000, (event.end_samples - event.start_samples) / 16_000
            print(f"{at_s:8.2f}  ({s:.1f} s of somebody else)")
        elif isinstance(event, Final):
            mine = " ".join(word.text for word in event.words if word.speaker == NAME)
            if mine:
                print(f"{event.start_samples / 16_000:8.2f}  {mine}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("voice", nargs="+", help="recordings of the one who is to be heard")
    parser.add_argument("--file", help="a recording instead of a microphone, as fast as it goes")
    parser.add_argument("--strictness", type=float, help="similarity from which on it is the same voice, -1 to 1")
    options = parser.parse_args()

    recogniser = Recogniser.load()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "voice.json"
        enrol(recogniser, options.voice, path)
        rules = SpeakerRules(enabled=True, known_path=str(path), known_above=options.strictness)
        session = recogniser.open(SessionSettings(speakers=rules))
    with FileSource(options.file) if options.file else MicrophoneSource() as source:
        try:
            for block in source:  # float32 at 16 kHz
                show(session.feed(block))
        except KeyboardInterrupt:
            pass
        show(session.finish())


if __name__ == "__main__":
    main()

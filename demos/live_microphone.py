"""Live text from the microphone, in thirty lines.

    python demos/live_microphone.py              the default microphone, until Ctrl+C
    python demos/live_microphone.py headset      a microphone by a part of its name
    python demos/live_microphone.py --file talk.flac

What may still change is shown in brackets behind what is certain. `wavlm-live listen` does this with more comfort.
"""

from __future__ import annotations

import argparse

from wavlm_live.streamer import Final, Partial, Recogniser, SpeechStarted, SpeechStopped
from wavlm_live.streamer.sources import FileSource, MicrophoneSource


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("microphone", nargs="?", help="number or part of the name, as `wavlm-live devices` lists them")
    parser.add_argument("--file", help="a recording instead of a microphone, as fast as it goes")
    options = parser.parse_args()

    session = Recogniser.load().open()  # the bundled model, greedy, partial text ten times a second
    source = FileSource(options.file) if options.file else MicrophoneSource(options.microphone)

    def show(events) -> None:
        for event in events:
            match event:
                case SpeechStarted(at):
                    print(f"{at / 16_000:8.2f}  (somebody speaks)")
                case SpeechStopped(at):
                    print(f"{at / 16_000:8.2f}  (silence)")
                case Partial(stable, unstable):
                    print(f"          {stable} [{unstable}]", flush=True)
                case Final(text, words):
                    doubtful = [word.text for word in words if word.confidence < 0.5]
                    print(
                        f"{event.start_samples / 16_000:8.2f}  {text}  (not sure of: {', '.join(doubtful) or 'none'})"
                    )

    with source:
        try:
            for block in source:  # float32 at 16 kHz, 20 ms or so
                show(session.feed(block))
        except KeyboardInterrupt:
            pass
        show(session.finish())  # the last words


if __name__ == "__main__":
    main()

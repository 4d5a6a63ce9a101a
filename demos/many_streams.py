"""Many live streams on one device: the batcher computes their steps together.

    python demos/many_streams.py RECORDING --streams 8

Every stream hears the recording from another place on, at the pace of speech, as if so many people spoke at once.
"""

from __future__ import annotations

import argparse
import threading
import time

import numpy as np

from wavlm_live.streamer import Event, Final, Recogniser
from wavlm_live.streamer.admission import Overloaded
from wavlm_live.streamer.batcher import Batcher
from wavlm_live.streamer.sources import FileSource

BLOCK = 1600  # samples: 100 ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    sound = np.concatenate(list(FileSource(options.recording)))
    printing = threading.Lock()

    def printer(number: int):
        """Takes the events of a stream; it is called in the batcher's thread and must be quick."""

        def take(events: list[Event]) -> None:
            for event in events:
                if isinstance(event, Final):
                    with printing:
                        print(f"stream {number:2d}  {event.start_samples / 16_000:6.2f} s  {event.text}", flush=True)

        return take

    with Batcher(Recogniser.load()) as batcher:  # measures what a step costs, so that it knows how many it can serve
        streams = []
        for number in range(options.streams):
            try:
                streams.append(batcher.open(on_events=printer(number)))
            except Overloaded as error:
                print(f"{len(streams)} streams are as many as this machine can serve in time: {error}")
                break
        heard = [np.roll(sound, -number * len(sound) // options.streams) for number in range(len(streams))]
        began = time.monotonic()
        for n in range(int(options.seconds * 16_000 / BLOCK)):
            time.sleep(max(0.0, began + n * BLOCK / 16_000 - time.monotonic()))
            for stream, samples in zip(streams, heard, strict=True):
                stream.feed(np.take(samples, range(n * BLOCK, (n + 1) * BLOCK), mode="wrap"))
        for stream in streams:
            stream.finish()
        for stream in streams:
            stream.wait(60)
        figures = batcher.statistics()
    print(
        f"{figures.opened} streams, {figures.audio_s:.0f} s of sound in {figures.busy_s:.1f} s of computing; "
        f"{figures.batch_mean:.1f} streams in a step, {figures.step_p50_ms:.0f} ms each; "
        f"results {figures.latency_p50_ms:.0f} ms after their chunk (99%: {figures.latency_p99_ms:.0f} ms)"
    )


if __name__ == "__main__":
    main()

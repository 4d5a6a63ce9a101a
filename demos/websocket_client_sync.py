"""The same without asyncio: `python demos/websocket_client_sync.py ws://127.0.0.1:8765/v1/stream talk.flac`."""

from __future__ import annotations

import sys

from wavlm_live.streamer import Final
from wavlm_live.streamer.client import Client
from wavlm_live.streamer.sources import FileSource


def main(url: str, path: str) -> None:
    client = Client(url, {"partial_hop_ms": 0, "endpoint": {"silence_ms": 600}})
    for event in client.transcribe(FileSource(path)):
        if isinstance(event, Final):
            print(f"{event.start_samples / 16_000:7.2f} s  {event.text}")


if __name__ == "__main__":
    main(*sys.argv[1:])

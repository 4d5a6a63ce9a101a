"""A recording, live to a server: `python demos/websocket_client.py ws://127.0.0.1:8765/v1/stream talk.flac`.

Start a server with `wavlm-live serve`. Kill it while this runs, start it again: the text comes out whole all the same.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator

import numpy as np

from wavlm_live.streamer import Final, Partial
from wavlm_live.streamer.client import AsyncClient
from wavlm_live.streamer.sources import FileSource


async def at_the_pace_of_speech(path: str) -> AsyncIterator[np.ndarray]:
    for block in FileSource(path, block_samples=1600):
        yield block
        await asyncio.sleep(0.1 if sys.stdout.isatty() else 0)


async def main(url: str, path: str) -> None:
    client = AsyncClient(url, {"endpoint": {"silence_ms": 600}})
    async for event in client.transcribe(at_the_pace_of_speech(path)):
        if isinstance(event, Partial) and sys.stdout.isatty():
            print(f"\r\033[K{event.stable} \033[2m{event.unstable}\033[0m", end="", flush=True)
        elif isinstance(event, Final):
            print("\r\033[K" if sys.stdout.isatty() else "", end="")
            print(f"{event.start_samples / 16_000:7.2f} s  {event.text}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

"""Clients of a server: sound in, events out, over a connection that may break.

    for event in Client("ws://127.0.0.1:8765/v1/stream").transcribe(FileSource("talk.flac")):
        print(event)

`AsyncClient` is the same for asyncio. Both reconnect by themselves and go on where they were.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, Self, TypeVar

from ..model.errors import StreamError
from .async_client import AsyncClient, ConnectionFailed, Sound
from .events import Event
from .protocols.native_client import ServerRefused
from .retry import Retry

__all__ = ["AsyncClient", "Client", "ConnectionFailed", "Retry", "ServerRefused", "Sound"]

T = TypeVar("T")


class Client:
    """One stream, for programs without asyncio; a thread of its own runs an `AsyncClient`. Arguments as there."""

    def __init__(self, urls: str | Iterable[str], settings: Mapping[str, Any] | None = None, **options: Any) -> None:
        self._make = lambda: AsyncClient(urls, settings, **options)
        self._client: AsyncClient | None = None
        self._loop = asyncio.new_event_loop()
        self._thread: threading.Thread | None = None

    @property
    def realtime_factor(self) -> float | None:
        """See `AsyncClient.realtime_factor`."""
        return None if self._client is None else self._client.realtime_factor

    @property
    def reconnections(self) -> int:
        """Times that the stream went on after a break."""
        return 0 if self._client is None else self._client.reconnections

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._loop.run_forever, name="wavlm-live client", daemon=True)
        self._thread.start()
        try:
            self._call(self._enter())
        except BaseException:
            self.__exit__()  # Python calls it only where entering succeeded
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._thread is not None
        if self._client is not None:
            self._call(self._client.__aexit__())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def send(self, sound: Sound) -> None:
        """See `AsyncClient.send`."""
        self._call(self._inner.send(sound))

    def flush(self) -> None:
        """See `AsyncClient.flush`."""
        self._call(self._inner.flush())

    def mark(self, id: str) -> None:
        """See `AsyncClient.mark`."""
        self._call(self._inner.mark(id))

    def change(self, settings: Mapping[str, Any]) -> None:
        """See `AsyncClient.change`."""
        self._call(self._inner.change(settings))

    def finish(self) -> None:
        """See `AsyncClient.finish`."""
        self._call(self._inner.finish())

    def __iter__(self) -> Iterator[Event]:
        """See `AsyncClient`."""
        events = self._inner.__aiter__()
        while (event := self._call(_next(events))) is not None:
            yield event

    def transcribe(self, source: Iterable[Sound]) -> Iterator[Event]:
        """See `AsyncClient.transcribe`."""
        with self:
            future = asyncio.run_coroutine_threadsafe(self._inner.send_all(source), self._loop)
            try:
                yield from self
                future.result()
            finally:
                future.cancel()

    @property
    def _inner(self) -> AsyncClient:
        if self._client is None:
            raise StreamError("this client is not connected; use it in `with`")
        return self._client

    async def _enter(self) -> None:
        self._client = await self._make().__aenter__()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        future: Future[T] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise


async def _next(events: AsyncIterator[Event]) -> Event | None:
    return await anext(events, None)

"""`AsyncClient`: sound to a server and its events back, for asyncio, over a connection that may break.

It reconnects by itself and goes on where it was: no result is lost and none comes twice. It sends no faster than the
server hears, so a file is not buffered in between. `client` has it, and the same for programs without asyncio.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from ssl import SSLCertVerificationError
from typing import Any, Self

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus, InvalidURI

from ..model.errors import StreamError, WavLMLiveError
from .addresses import stream_address
from .events import Event
from .protocols.audio import AudioFormat, encoded
from .protocols.native_client import ClientStream, ServerRefused
from .retry import Retry

Sound = np.ndarray | bytes
"""float32 `[samples]`, or bytes encoded as the client was told."""

_TRUST = "to trust a certificate of your own, name its file in SSL_CERT_FILE, or give the client an ssl context"
FATAL_CLOSES = (1003, 1007, 1008, 1009, 1010)
MOST_WAITING_S = 10.0
"""Sound that may wait in the client before `send` waits."""


class ConnectionFailed(WavLMLiveError):
    """No server could be reached for too long."""


class AsyncClient:
    """One stream, for asyncio.

    Args:
        urls: of the server, `ws://` or `wss://`; several are tried in turn after a break.
        settings: how to listen, as in docs/protocol.md.
        audio: how sound is encoded on the way; float32 samples are turned into pcm_s16le or pcm_f32le.
        key: API key.
        retry: after a break.
        ssl: a context for `wss://`, where the system's certificates do not do.
        model: name of one that the server offers; None: its default.

    Raises:
        ConfigurationError: an address that is none.
    """

    def __init__(
        self,
        urls: str | Iterable[str],
        settings: Mapping[str, Any] | None = None,
        *,
        audio: AudioFormat | None = None,
        key: str | None = None,
        retry: Retry | None = None,
        ssl: Any = None,
        model: str | None = None,
    ) -> None:
        self._urls = [stream_address(url) for url in ([urls] if isinstance(urls, str) else urls)]
        self._stream = ClientStream(audio, settings, model=model)
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._retry = retry or Retry()
        self._tls = {} if ssl is None else {"ssl": ssl}  # None would mean no TLS, also for wss://
        self._events: asyncio.Queue[Event | None] = asyncio.Queue(maxsize=1000)
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._error: Exception | None = None

    @property
    def realtime_factor(self) -> float | None:
        """Seconds of computing that a second of sound takes on the server; None before it told."""
        return self._stream.realtime_factor

    @property
    def reconnections(self) -> int:
        """Times that the stream went on after a break."""
        return self._stream.reconnections

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def send(self, sound: Sound) -> None:
        """Send sound; waits while the server is behind.

        Raises:
            AudioError: samples of another type, or an encoding that takes bytes only.
            ServerRefused, ConnectionFailed: the stream is over.
        """
        data, audio = encoded(sound, self._stream.audio), self._stream.audio
        most = MOST_WAITING_S * (audio.rate * audio.frame_bytes if audio.is_raw else 64_000)
        while self._stream.waiting_bytes > most and self._alive:
            self._room.clear()
            await self._room.wait()
        self._check()
        self._stream.feed(data)
        self._news.set()

    async def flush(self) -> None:
        """Ask for the text of the sound so far."""
        self._check()
        self._stream.flush()
        self._news.set()

    async def mark(self, id: str) -> None:
        """Ask for a `Marker` when the sound so far has been decided."""
        self._check()
        self._stream.mark(id)
        self._news.set()

    async def change(self, settings: Mapping[str, Any]) -> None:
        """Ask to be listened to differently from now on."""
        self._check()
        self._stream.change(settings)
        self._news.set()

    async def finish(self) -> None:
        """No more sound comes; the events end when all results are there."""
        self._stream.finish()
        self._news.set()

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Events to the end of the stream.

        Raises:
            ServerRefused: the server will not have the stream.
            ConnectionFailed: no server could be reached for too long.
        """
        while (event := await self._events.get()) is not None:
            yield event
        self._events.put_nowait(None)
        if self._error is not None:
            raise self._error

    async def transcribe(self, source: Iterable[Sound] | AsyncIterable[Sound]) -> AsyncIterator[Event]:
        """Send all sound of a source and give the events, to the last result. Blocks of an ordinary iterable are taken
        in a thread, so that a microphone may wait.

        Raises:
            ServerRefused, ConnectionFailed: as for the events; and what the source raises.
        """
        async with self:
            sending = asyncio.create_task(self.send_all(source))
            try:
                async for event in self:
                    yield event
                    if sending.done() and sending.exception() is not None:
                        break
                await sending
            finally:
                sending.cancel()
                with contextlib.suppress(BaseException):
                    await sending

    async def send_all(self, source: Iterable[Sound] | AsyncIterable[Sound]) -> None:
        """Send all sound of a source, then `finish`; what the source raises ends the events too."""
        try:
            if isinstance(source, AsyncIterable):
                async for block in source:
                    await self.send(block)
            else:
                blocks = iter(source)
                while (block := await asyncio.to_thread(next, blocks, None)) is not None:
                    await self.send(block)
            await self.finish()
        except Exception as error:
            if self._error is None:
                self._end(error)
            raise

    # The connection --------------------------------------------------------------------------------------

    @property
    def _alive(self) -> bool:
        return self._task is not None and not self._task.done()

    def _check(self) -> None:
        if self._task is None:
            raise StreamError("this client is not connected; use it in `async with`")
        if self._error is not None:
            raise self._error
        if self._task.done():
            raise StreamError("this stream has ended; make a new client for more sound")

    def _end(self, error: Exception | None) -> None:
        self._error = self._error or error
        self._room.set()
        while self._events.full():
            self._events.get_nowait()  # nobody reads any more, or the end would wait for them
        self._events.put_nowait(None)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        tries, since, why = 0, loop.time(), "never reached"
        try:
            while not self._stream.ended:
                url = self._urls[tries % len(self._urls)]
                try:
                    async with connect(
                        url,
                        additional_headers=self._headers,
                        **self._tls,
                        compression=None,
                        max_size=1 << 22,
                        ping_timeout=60,
                        open_timeout=10,
                        close_timeout=2,
                    ) as socket:
                        if await self._converse(socket):
                            tries, since = 0, loop.time()
                except InvalidStatus as error:
                    status = error.response.status_code
                    if status not in (429, 500, 502, 503, 504):
                        raise ServerRefused(str(status), _body(error)) from error
                    why = f"{_body(error)} (HTTP {status})"
                except InvalidURI as error:
                    raise ServerRefused("bad_address", str(error)) from error
                except ConnectionClosed as error:
                    why = str(error)
                    if error.rcvd is not None and error.rcvd.code in FATAL_CLOSES:
                        raise ServerRefused(str(error.rcvd.code), error.rcvd.reason) from error
                except SSLCertVerificationError as error:
                    raise ServerRefused("certificate", f"{error.verify_message}; {_TRUST}") from error
                except (OSError, InvalidHandshake, TimeoutError) as error:
                    why = str(error) or type(error).__name__
                    if isinstance(error, InvalidMessage) and url.startswith("ws://"):
                        why += "; does the server speak TLS? then it is wss://"
                if self._stream.ended:
                    break
                self._stream.broke()
                if loop.time() - since >= self._retry.give_up_s:
                    raise ConnectionFailed(
                        f"no connection to {', '.join(self._urls)} for {loop.time() - since:.0f} s: {why}"
                    )
                pause_s = self._stream.retry_after_s or min(self._retry.longest_s, self._retry.first_s * 2**tries)
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
                tries += 1
        except Exception as error:
            self._end(error if isinstance(error, WavLMLiveError) else StreamError(f"the client failed: {error!r}"))
        else:
            self._end(None)

    async def _converse(self, socket: ClientConnection) -> bool:
        """Send and receive until the connection ends; whether the stream went on with it."""
        went_on = False
        await socket.send(self._stream.opening())
        sending = asyncio.create_task(self._send_waiting(socket))
        try:
            async for message in socket:
                events = self._stream.received(message)
                went_on = True
                self._news.set()
                self._room.set()
                for event in events:
                    await self._events.put(event)
                if self._stream.ended:
                    break
            if not self._stream.ended and socket.close_code in FATAL_CLOSES:
                raise ServerRefused(str(socket.close_code), socket.close_reason or "")
        except ConnectionClosed as error:
            if error.rcvd is not None and error.rcvd.code in FATAL_CLOSES:
                raise ServerRefused(str(error.rcvd.code), error.rcvd.reason) from error
        finally:
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionClosed, OSError):
                await sending
        return went_on

    async def _send_waiting(self, socket: ClientConnection) -> None:
        while True:
            self._news.clear()
            for message in self._stream.outgoing():
                await socket.send(message)
            try:
                async with asyncio.timeout(15.0):
                    await self._news.wait()
            except TimeoutError:
                await socket.send('{"type":"keep_alive"}')


def _body(error: InvalidStatus) -> str:
    body = bytes(error.response.body or b"").decode("utf-8", "replace")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(json.loads(body)["message"])[:300]
    if error.response.status_code in (403, 404) and not body:
        return "there is nothing at this path; the streams of a server are at /v1/stream"
    return body[:300] or error.response.reason_phrase

"""`Connection`: one WebSocket between a client and a stream. Reading and writing are two tasks that never wait for each
other, so a client that reads slowly still gets its pings answered, and one that sends fast still gets its results."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from typing import TYPE_CHECKING

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from ...model.errors import AudioError, ConfigurationError, StreamError
from ..admission import Overloaded
from ..events import SAMPLE_RATE, Problem
from ..protocols.commands import (
    Audio,
    Change,
    Close,
    Command,
    Finish,
    Flush,
    Mark,
    Numbered,
    Open,
    Send,
    ServerProtocol,
    Settle,
)
from ..protocols.native import NativeProtocol
from .limits import LimitReached
from .live_stream import LiveStream

if TYPE_CHECKING:
    from .service import Service

logger = logging.getLogger(__name__)

TICK_S = 0.25
POLICY, TOO_BIG, FAILED, RESTART, LATER = 1008, 1009, 1011, 1012, 1013
"""Close codes (RFC 6455, section 7.4.1, and IANA's registry)."""


class Connection:
    """One client.

    Args:
        service: what all connections share.
        socket: accepted already.
        protocol: that the client speaks.
        key: name of its API key; None: it has shown none, and has to in its first message.
        address: of the client.
        resumable: its stream outlives the connection.
        queue_s: sound that may wait for the model before the next message is read; None: as much as the limits say.
    """

    def __init__(
        self,
        service: Service,
        socket: WebSocket,
        protocol: ServerProtocol,
        key: str | None,
        address: str,
        resumable: bool = False,
        queue_s: float | None = None,
    ) -> None:
        self.service, self.socket, self.protocol = service, socket, protocol
        self.key, self.address, self.resumable = key, address, resumable
        self.live: LiveStream | None = None
        self._queue_s = queue_s
        self._out: deque[Send | Close] = deque()
        self._news = asyncio.Event()
        self._stream_over = asyncio.Event()
        self._draining = False
        self._closed = False
        self._entered = False
        self._clock_samples = 0
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Serve the client until one side closes."""
        self.service.connections.add(self)
        writer = asyncio.create_task(self._write())
        reader = asyncio.create_task(self._read())
        try:
            await self._execute(self.protocol.connected())
            await asyncio.wait({writer, reader}, return_when=asyncio.FIRST_COMPLETED)
            if not writer.done() and self._closing:
                await asyncio.wait({writer}, timeout=self.service.settings.limits.write_s)
        finally:
            for task in (reader, writer):
                task.cancel()
            results = await asyncio.gather(reader, writer, return_exceptions=True)
            for result in results:
                if isinstance(result, Exception) and not isinstance(result, WebSocketDisconnect):
                    logger.error("a connection failed", exc_info=result)
            self._leave()
            self.service.connections.discard(self)

    async def drain(self) -> None:
        """The server is stopping: give the last results, then close."""
        self._draining = True
        if self.live is None:
            self._fail("restart", "the server is restarting; connect again", RESTART)
            return
        try:
            async with self._lock:
                await self.live.finish()
        except (AudioError, StreamError, LimitReached) as error:
            self._fail("restart", f"the server is restarting: {error}", RESTART)

    def taken_over(self) -> None:
        """The client came back on another connection."""
        self.live = None
        self._put([Close(POLICY, "the stream goes on, on another connection")])

    # Reading ---------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        limits = self.service.settings.limits
        while not self._closing:
            timeout = limits.idle_s if self.live is not None else limits.start_s
            try:
                async with asyncio.timeout(timeout):
                    message = await self.socket.receive()
            except TimeoutError:
                if self._draining or (self.live is not None and self.live.finishing):
                    continue
                what = "no message" if self.live is not None else "no first message"
                self._fail("idle", f"{what} came for {timeout:g} s; send `keep_alive` in pauses", POLICY)
                return
            if message["type"] == "websocket.disconnect":
                return
            data = message.get("bytes")
            if data is None:
                data = message.get("text") or ""
            if len(data) > limits.message_bytes:
                self._fail("too_big", f"a message of {len(data)} came, at most {limits.message_bytes}", TOO_BIG)
                return
            async with self._lock:
                await self._execute(self.protocol.received(data))

    async def _execute(self, commands: list[Command]) -> None:
        """Do what the protocol asks; what fails becomes a message for the client."""
        try:
            for command in commands:
                if self._closing:
                    return
                await self._obey(command)
        except Overloaded as error:
            self.service.metrics.refused.labels("overloaded").inc()
            self._fail("overloaded", str(error), LATER, error.retry_after_s)
        except LimitReached as error:
            self.service.metrics.refused.labels(error.code).inc()
            self._fail(error.code, str(error), LATER if error.retry_after_s else POLICY, error.retry_after_s)
        except AudioError as error:
            self._fail("bad_audio", str(error), 1007)
        except ConfigurationError as error:
            self._fail("bad_settings", str(error), 1007)
        except StreamError as error:
            if self.live is None or self.live.problem is None:  # else the writer tells why the stream ended
                self._fail("ended", str(error), FAILED)

    async def _obey(self, command: Command) -> None:
        live = self.live
        match command:
            case Send() | Close():
                self._put([command])
            case Open():
                await self._open(command)
            case Audio(data):
                await self._fed(data)
            case Flush() if live is not None:
                live.flush()
            case Mark(id) if live is not None:
                live.mark(id)
            case Change() if live is not None:
                self._change(live, command)
            case Finish() if live is not None:
                await live.finish()
            case Settle() if live is not None:
                await live.heard()
                await asyncio.sleep(0)
                self._drain_events()
                self._put(self.protocol.settled())

    async def _fed(self, data: bytes) -> None:
        live = self.live
        if live is not None and live.finishing and not self._draining:
            await self._stream_over.wait()  # the next stream of this connection begins with this sound
            live = self.live
        if live is None or live.finishing:
            return
        await live.feed(data, self._queue_s)

    def _change(self, live: LiveStream, command: Change) -> None:
        number, refused = live.messages_received, command.refused
        try:
            live.change(command.settings)
        except ConfigurationError as error:
            refused = str(error)
            if isinstance(self.protocol, NativeProtocol):
                self.protocol.goes_on(live.settings)
        if refused:
            live.log.add(Problem("bad_settings", refused), extra={"number": number})
            self._news.set()

    # The stream ------------------------------------------------------------------------------------------

    async def _open(self, request: Open) -> None:
        service = self.service
        if self.live is not None and self.live.finishing and not self._draining:
            await self._stream_over.wait()
        if self._draining:
            self._fail("restart", "the server is restarting; connect again", RESTART)
            return
        if self.key is None:
            self.key = service.admit(request.key, self.address)
            if self.key is None:
                self._fail("unauthorized", "this server needs an API key: send it as `key` or as a header", POLICY)
                return
        if not self._entered:
            service.doorkeeper.enter(self.key, self.address)
            self._entered = True
        if self.live is not None:
            service.drop(self.live)
            self.live = None
        held, how = None, "new"
        if request.resume is not None and self.resumable:
            held = service.come_back(request.resume, self.key)
            if held is not None:
                await self._caught_up(held)
            how = "held" if held is not None else "replay"
            service.metrics.resumed.labels(how).inc()
        if not isinstance(self.protocol, NativeProtocol):
            request = service.models.fitted(request)
        batcher = service.models.batcher(request.model)
        live = held or LiveStream(batcher, request, service.settings.limits, service.metrics, self._clock_samples)
        if held is None:
            service.metrics.streams.labels(self.protocol.name).inc()
        self.live = live
        live.budgets[1:] = service.doorkeeper.budgets(self.key, self.address)
        self._stream_over.clear()
        service.streams[live.token] = (live, self)
        live.attach(self._news.set)
        live.on_sound = service.watchers.sound
        service.watchers.began(live.token, self.protocol.name, live.settings.speech.start_probability)
        self._news.set()
        logger.info(
            "stream %s", how, extra={"session": live.token[:8], "protocol": self.protocol.name, "address": self.address}
        )
        extra: dict[str, object] = {
            "session": live.token,
            "resumed": how,
            "bytes": live.bytes_received,
            "messages": live.messages_received,
            "window_s": service.settings.limits.queue_s / 2,
        }
        self._put(self.protocol.happened([Numbered(live.log.last_seq, live.ready, extra=extra)]))

    async def _caught_up(self, held: LiveStream) -> None:
        """Wait for the sound that the broken connection of a stream brought."""
        try:
            await held.caught_up()
        except (AudioError, LimitReached, StreamError):
            self.service.drop(held)
            raise
        except BaseException:  # this connection broke, too
            self.service.hold(held, self.key or "")
            raise
        if isinstance(self.protocol, NativeProtocol):
            self.protocol.goes_on(held.settings, held.model)

    def _leave(self) -> None:
        """The connection is gone: the stream waits for its client, or ends."""
        live, self.live = self.live, None
        if live is not None:
            over = live.over and not live.log.waiting
            if self.resumable and not over and not self._closed and live.problem is None:
                self.service.hold(live, self.key or "")
            else:
                self.service.drop(live)
        if self._entered:
            self._entered = False
            self.service.doorkeeper.leave(self.key or "", self.address)

    # Writing ---------------------------------------------------------------------------------------------

    @property
    def _closing(self) -> bool:
        return self._closed or any(isinstance(m, Close) for m in self._out)

    def _put(self, messages: list[Command]) -> None:
        if not self._closing:
            self._out.extend(m for m in messages if isinstance(m, Send | Close))
        self._news.set()

    def _fail(self, code: str, message: str, close: int, retry_after_s: float | None = None) -> None:
        self.service.metrics.errors.labels(code).inc()
        logger.info("refused: %s", code, extra={"protocol": self.protocol.name, "address": self.address, "code": code})
        self._put(self.protocol.failed(code, message, close, retry_after_s))

    async def _write(self) -> None:
        limits = self.service.settings.limits
        while True:
            while self._out:
                message = self._out.popleft()
                if isinstance(message, Close):
                    self._closed = True
                    if self.socket.application_state is not WebSocketState.DISCONNECTED:
                        await self.socket.close(message.code, message.reason[:120])
                    return
                self.service.metrics.bytes_out.inc(len(message.data))
                try:
                    async with asyncio.timeout(limits.write_s):
                        if isinstance(message.data, str):
                            await self.socket.send_text(message.data)
                        else:
                            await self.socket.send_bytes(message.data)
                except TimeoutError:
                    self.service.metrics.errors.labels("slow_reader").inc()
                    return
                except (WebSocketDisconnect, RuntimeError):
                    return
            self._drain_events(100)
            if self._out:
                continue
            await self._after_end()
            if self._out:
                continue
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._news.wait()
            if self.live is not None and not self.live.over:
                self.live.tick()
                if self.live.age_s > limits.session_s:
                    self._fail("too_long", f"a stream may last {limits.session_s:g} s; open a new one", POLICY)

    def _drain_events(self, most: int = 10_000) -> None:
        """Turn waiting events of the stream into messages."""
        live = self.live
        if live is None:
            return
        events = live.log.take(most)
        if events:
            if live.log.left_out:
                self.service.metrics.left_out.inc(live.log.left_out)
                live.log.left_out = 0
            for numbered in events:
                self.service.log_event(live.token, numbered.event)
            self._put(self.protocol.happened(events))

    async def _after_end(self) -> None:
        """The stream has ended and everything was read: close, or begin the next one on the same connection."""
        live = self.live
        if live is None or not live.over or live.log.waiting:
            return
        if live.problem is not None:
            code = LATER if live.problem.code in ("overloaded", "closed") else FAILED
            retry = 1.0 if code == LATER else None
            self._fail(live.problem.code, live.problem.message, code, retry)
        elif self._draining:
            self._put(self.protocol.finished()[:-1])
            self._put([Close(RESTART, "the server is restarting")])
        else:
            self._clock_samples += live.samples_fed - live.origin_samples
            commands = self.protocol.finished()
            if not any(isinstance(c, Close) for c in commands):
                self.service.drop(live)  # the connection stays, for another stream
                self.live = None
                self._stream_over.set()
            await self._execute(commands)
        if self.live is live:
            self._stream_over.set()

    @property
    def audio_s(self) -> float:
        """Sound heard on this connection so far."""
        return self._clock_samples / SAMPLE_RATE

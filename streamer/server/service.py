"""`Service`: what all connections of a server share: keys, limits, metrics, and broken streams that wait."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..batcher import Batcher
from ..events import Event, Final, to_seconds
from ..protocols.commands import Resume
from .keys import KeyRing
from .limits import Doorkeeper
from .live_stream import LiveStream
from .metrics import Metrics
from .offered_models import OfferedModels
from .settings import ServerSettings
from .watching import Watchers

if TYPE_CHECKING:
    from .connection import Connection

logger = logging.getLogger(__name__)


class Service:
    """The server apart from its sockets.

    Args:
        batchers: started; several of one device, the default model's first, or one.
        settings: of the server.

    Raises:
        ConfigurationError: batchers that cannot serve together.
    """

    def __init__(self, batchers: Batcher | Sequence[Batcher], settings: ServerSettings) -> None:
        self.models = OfferedModels([batchers] if isinstance(batchers, Batcher) else batchers, settings)
        self.settings = settings
        self.keys = KeyRing(settings.keys)
        self.doorkeeper = Doorkeeper(settings.limits)
        self.metrics = Metrics(self.models)
        self.connections: set[Connection] = set()
        self.streams: dict[str, tuple[LiveStream, Connection]] = {}
        """Streams with a connection, by token."""
        self.uploads = asyncio.Semaphore(settings.limits.uploads)
        self.draining = False
        self.watchers = Watchers()
        self._held: OrderedDict[str, tuple[LiveStream, str, asyncio.TimerHandle]] = OrderedDict()

    # Who may come in -------------------------------------------------------------------------------------

    def admit(self, credential: str | None, address: str) -> str | None:
        """Name of the key that a credential is or stands for; None: it is none, or too many wrong ones came."""
        if not self.keys.open_to_all and self.doorkeeper.suspicious(address):
            return None
        name = self.keys.name_of(credential)
        if name is None and credential:
            self.doorkeeper.failed(address)
        return name

    @property
    def full(self) -> float | None:
        """Seconds after which to come back, where no stream can be let in; None: there is room."""
        figures = self.models.statistics()
        if not self._held and figures.sessions >= self.models.default.rules.most_sessions:
            return 5.0
        return None

    # Streams without a connection ------------------------------------------------------------------------

    def hold(self, live: LiveStream, key: str) -> None:
        """Keep a stream whose connection broke."""
        self.streams.pop(live.token, None)
        limits = self.settings.limits
        if not limits.held or not limits.hold_s or self.draining:
            self.drop(live)
            return
        while len(self._held) >= limits.held:
            self._expire(next(iter(self._held)))
        live.attach(lambda: None)
        timer = asyncio.get_running_loop().call_later(limits.hold_s, self._expire, live.token)
        self._held[live.token] = live, key, timer
        self.metrics.held.set(len(self._held))
        logger.info("stream held", extra={"session": live.token[:8]})

    def come_back(self, resume: Resume, key: str) -> LiveStream | None:
        """The stream that a client asks for, if it is here, is the client's, and has all that the client missed."""
        connected = self.streams.get(resume.session)
        if connected is not None and (connected[1].key or "") == key:
            live, connection = connected
            connection.taken_over()  # the client saw the connection break before we did
        elif resume.session in self._held and self._held[resume.session][1] == key:
            live, _, timer = self._held.pop(resume.session)
            timer.cancel()
            self.metrics.held.set(len(self._held))
        else:
            return None
        if live.problem is None and live.log.rewind(resume.last_seq):
            return live
        self.drop(live)
        return None

    def drop(self, live: LiveStream) -> None:
        """End a stream for good."""
        self.streams.pop(live.token, None)
        self.watchers.ended(live.token)
        if not live.over:
            live.abort()

    def _expire(self, token: str) -> None:
        live, _, timer = self._held.pop(token)
        timer.cancel()
        self.metrics.held.set(len(self._held))
        logger.info("stream given up", extra={"session": token[:8]})
        self.drop(live)

    # Who is here -----------------------------------------------------------------------------------------

    def all_streams(self) -> list[tuple[LiveStream, bool]]:
        """Every stream of a client, the oldest first, and whether it has a connection."""
        open_ones = [(live, True) for live, _ in self.streams.values()]
        held = [(live, False) for live, _, _ in self._held.values()]
        return sorted(open_ones + held, key=lambda pair: pair[0].number)

    # Stopping --------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Let open streams get their last results, then close their connections; at most for `drain_s`."""
        self.draining = True
        for batcher in self.models.batchers.values():
            batcher.stop_admitting("the server is restarting")
        for token in list(self._held):
            self._expire(token)
        end = asyncio.get_running_loop().time() + self.settings.drain_s
        await asyncio.gather(*(connection.drain() for connection in list(self.connections)))
        while self.connections and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.05)

    # Logs ------------------------------------------------------------------------------------------------

    def log_event(self, token: str, event: Event) -> None:
        """Show it to operators who look on; write a final result down: its place, and its text only where asked for."""
        self.watchers.event(token, event)
        if isinstance(event, Final) and logger.isEnabledFor(logging.INFO):
            extra: dict[str, object] = {
                "session": token[:8],
                "start_s": to_seconds(event.start_samples),
                "end_s": to_seconds(event.end_samples),
                "reason": event.reason,
            }
            if self.settings.log_text:
                extra["text"] = event.text
            logger.info("final", extra=extra)

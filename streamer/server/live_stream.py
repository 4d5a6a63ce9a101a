"""`LiveStream`: one client's stream of sound in the batcher. It outlives the connection, and says where to resume.

Lives in the event loop's thread. The batcher's thread hands events over with `call_soon_threadsafe` and never waits.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable

import numpy as np

from ...model.errors import AudioError, ConfigurationError
from ..admission import QueueFull
from ..batched_stream import BatchedStream
from ..batcher import Batcher
from ..events import SAMPLE_RATE, Acknowledged, Event, Final, Marker, Problem, Ready
from ..protocols.audio import AudioDecoder
from ..protocols.commands import Open, Resume
from ..protocols.native_messages import Point
from ..resuming import Reach, shifted
from ..session_settings import SessionSettings
from .event_log import EventLog
from .limits import AudioBudget, LimitReached
from .metrics import Metrics
from .settings import Limits

ASK_SAMPLES = 2 * SAMPLE_RATE
"""Sound from one question to the stream, what it has settled, to the next: in silence no event tells."""
TOLD_SAMPLES = SAMPLE_RATE
"""Sound from one `Acknowledged` to the next."""


class LiveStream:
    """A stream, from its first sample to its last event.

    Args:
        batcher: that computes it.
        request: settings, encoding, and where to resume.
        limits: how much it may take.
        metrics: what is counted.
        clock_samples: of sound on the same connection before it; times of its events begin there.

    Raises:
        Overloaded: the batcher has no room.
        ConfigurationError: settings that this model cannot serve, or a place to resume that cannot be.
    """

    def __init__(
        self, batcher: Batcher, request: Open, limits: Limits, metrics: Metrics, clock_samples: int = 0
    ) -> None:
        self.model = batcher.recogniser.name
        self.token = secrets.token_urlsafe(18)
        self.settings = request.settings
        self.audio = request.audio
        self.over = False
        """All events are in the log."""
        self.problem: Problem | None = None
        """Why the batcher ended it."""
        self.finishing = False
        self._told_slow = False
        self._limits, self._metrics = limits, metrics
        self._loop = asyncio.get_running_loop()
        self._changed: Callable[[], None] = lambda: None
        self._feeding: asyncio.Future[None] | None = None  # the last message with sound, until it was taken
        self.on_sound: Callable[[str, int, np.ndarray], None] = lambda token, start, samples: None
        """Is shown the sound: the token, the place of the first sample, and the samples."""
        self._batcher = batcher
        context = request.settings.context or batcher.recogniser.contexts["default"]
        padding_samples = request.settings.speech.word_padding_ms * SAMPLE_RATE // 1000
        self._reach = Reach.of(batcher.recogniser.model.config, context, padding_samples)
        resume = request.resume
        self._begin_at(resume, clock_samples)
        self.log = EventLog(resume.last_seq if resume else 0, limits.kept_events, limits.unread_events)
        self._decoder = AudioDecoder(request.audio)
        self.budgets = [AudioBudget(limits)]
        """All of them have to have room for its sound: its own, then those it shares with others."""
        self._began_s = self._loop.time()
        self._stream: BatchedStream = batcher.open(request.settings, self._from_batcher, on_end=self._end_from_batcher)
        if self._point.segment_samples > self.origin_samples:
            self._stream.session.deafen(self._point.segment_samples - self.origin_samples)
        self._stream.session.remember_voice(self._reach.grid_samples, resume.voice if resume else None)
        if resume is not None:
            try:
                self._stream.session.recall_speakers(resume.speakers)
            except ConfigurationError:
                self._stream.abort()
                raise

    def _begin_at(self, resume: Resume | None, clock_samples: int) -> None:
        """Where its sound begins, and what was given before."""
        point = Point()
        if resume is not None:
            place = resume.origin_samples, resume.segment_samples
            memories = resume.voice.to_bytes(), resume.speakers.to_bytes()
            point = Point(0, *place, resume.finals_before, resume.messages, *memories)
        hop = self._batcher.recogniser.model.config.hop_samples
        grid = self._reach.grid_samples
        if point.origin_samples % grid or (point.segment_samples - point.origin_samples) % hop:
            raise ConfigurationError(
                f"resume.point lies at sample {point.origin_samples}, expected a multiple of {grid} under this "
                "context; resume with the settings that the stream had"
            )
        self.origin_samples = point.origin_samples or clock_samples
        raw = self.audio.is_raw
        self.first_byte = self.audio.bytes_at(point.origin_samples) if raw else 0
        self._unwanted = 0 if raw else point.origin_samples  # decoded samples before the origin
        self.bytes_received = self.first_byte
        self.messages_received = point.messages
        self.samples_fed = self.origin_samples
        self._asked_samples = self._told_samples = self.origin_samples
        self._asking = False
        self._question = secrets.token_urlsafe()  # the mark that asks; no client can have one of this name
        self._finals = point.finals
        self._finals_seen = resume.finals if resume else 0
        self._point = point
        self._settled_samples = max(0, point.segment_samples - self.origin_samples)  # in the batcher's thread
        self._open_finals: deque[tuple[int, int]] = deque()  # number and end of finals behind the point
        self._controls: deque[tuple[int, int]] = deque()  # number and place of control messages behind the point
        self._arrivals: deque[tuple[int, int]] = deque()  # bytes and samples up to the end of each message
        self._heard_bytes = self.first_byte

    # What a connection does ------------------------------------------------------------------------------

    def attach(self, changed: Callable[[], None]) -> None:
        """From now on `changed` is called whenever there are events to read, or the stream is over."""
        self._changed = changed

    @property
    def ready(self) -> Ready:
        """The event that opens the stream."""
        return self._stream.ready

    @property
    def point(self) -> Point:
        """Where another server would go on."""
        return self._point

    @property
    def queued_samples(self) -> int:
        """Samples that wait for the model."""
        return self._stream.queued_samples

    @property
    def number(self) -> int:
        """Counts up with each stream of the server, of whichever model."""
        return self._stream.number

    @property
    def figures(self) -> tuple[float, float]:
        """Latency of the newest chunk in seconds, and seconds of computing for a second of sound."""
        heard = self._stream.samples_taken - self._stream.queued_samples
        return self._stream.latency_s, self._stream.busy_s * SAMPLE_RATE / heard if heard > 0 else 0.0

    async def feed(self, data: bytes, queue_s: float | None = None) -> None:
        """Take encoded sound; waits while the model or the reader is behind.

        Args:
            data: as `audio` says.
            queue_s: sound that may wait for the model when this returns; None: the limit's.

        Raises:
            AudioError: no such sound.
            LimitReached: too long a stream, or too much sound in a message.
            StreamError: the stream has ended.
        """
        self.bytes_received += len(data)
        self._metrics.received(len(data))
        # What counts as received must be heard, also where the connection breaks meanwhile and this call is cancelled.
        self._feeding = asyncio.ensure_future(self._feed(data))
        await asyncio.shield(self._feeding)
        await self.heard(round((self._limits.queue_s if queue_s is None else queue_s) * SAMPLE_RATE))

    async def caught_up(self) -> None:
        """Wait until the sound that a broken connection brought has been taken; then another may bring more.

        Raises:
            AudioError, LimitReached, StreamError: as `feed`.
        """
        if self._feeding is not None:
            await asyncio.shield(self._feeding)

    async def _feed(self, data: bytes) -> None:
        limits, fed = self._limits, 0
        for samples in self._decoder.decode(data):
            fed += len(samples)
            if fed > limits.message_audio_s * SAMPLE_RATE and not self.audio.is_raw:
                raise LimitReached(
                    "too_much_sound",
                    f"a message held more than {limits.message_audio_s:g} s of sound; send smaller ones",
                )
            if self.samples_fed - self.origin_samples > limits.session_s * SAMPLE_RATE:
                raise LimitReached("too_long", f"a stream may last {limits.session_s:g} s; open a new one")
            await self._feed_samples(self._wanted(samples))
        self._arrivals.append((self.bytes_received, self.samples_fed))

    async def heard(self, most_samples: int = 0) -> None:
        """Wait until at most so many samples wait for the model, and the reader is not too far behind."""
        pause_s = 0.002
        while not self.over and (self._stream.queued_samples > most_samples or self.log.slow):
            if self.log.slow and not self._told_slow:
                self._told_slow = True
                message = f"{self.log.waiting} events wait to be read; until then no more sound is heard"
                self.log.add(Problem("slow_reader", message))
                self._changed()
            await asyncio.sleep(pause_s)
            pause_s = min(0.05, pause_s * 1.5)
        if 2 * self.log.waiting < self._limits.unread_events:
            self._told_slow = False

    def flush(self) -> None:
        """End the segment."""
        self._control()
        self._stream.flush()

    def mark(self, id: str) -> None:
        """Ask for a marker."""
        self._control()
        self._stream.mark(id)

    def change(self, settings: SessionSettings) -> None:
        """Listen differently.

        Raises:
            ConfigurationError: what cannot change within a stream; nothing has changed.
        """
        self._control()
        if settings == self.settings:
            return
        self._stream.change(settings)
        self.settings = settings

    async def finish(self) -> None:
        """No more sound comes."""
        if self.finishing:
            return
        self.finishing = True
        try:
            rest = self._decoder.finish()
        except AudioError:
            if self.samples_fed > self.origin_samples:
                raise
            rest = np.zeros(0, np.float32)
        if len(rest):
            await self._feed_samples(self._wanted(rest))
        self._stream.finish()

    @property
    def age_s(self) -> float:
        """Seconds since it began."""
        return self._loop.time() - self._began_s

    def abort(self) -> None:
        """Drop the stream."""
        self._changed = lambda: None
        self._stream.abort()

    def tick(self) -> None:
        """Called a few times a second: tell how far the model is."""
        heard = self._heard_samples()
        if heard - self._told_samples >= TOLD_SAMPLES or (heard > self._told_samples and not self.queued_samples):
            self._tell()

    def _heard_samples(self) -> int:
        return self.origin_samples + self._stream.samples_taken - self._stream.queued_samples

    # Sound -----------------------------------------------------------------------------------------------

    def _wanted(self, samples: np.ndarray) -> np.ndarray:
        """Without what lies before the origin: a container is sent again from its header on."""
        dropped = min(self._unwanted, len(samples))
        self._unwanted -= dropped
        return samples[dropped:]

    async def _feed_samples(self, samples: np.ndarray) -> None:
        wait_s = max(budget.take(len(samples) / SAMPLE_RATE) for budget in self.budgets)
        if wait_s > 0:
            self._metrics.throttled.inc()
            await asyncio.sleep(wait_s)
        for start in range(0, len(samples), SAMPLE_RATE):
            piece = samples[start : start + SAMPLE_RATE]
            while True:
                await self.heard(max(0, round(self._limits.queue_s * SAMPLE_RATE) - len(piece)))
                try:
                    self._stream.feed(piece)
                    break
                except QueueFull:
                    await asyncio.sleep(0.02)
            self.on_sound(self.token, self.samples_fed, piece)
            self.samples_fed += len(piece)
            if self.samples_fed - self._asked_samples >= ASK_SAMPLES and not self._asking:
                self._asking, self._asked_samples = True, self.samples_fed
                self._stream.mark(self._question)

    def _control(self) -> None:
        self._controls.append((self.messages_received, self.samples_fed))
        self.messages_received += 1

    # Events ----------------------------------------------------------------------------------------------

    def _from_batcher(self, events: list[Event]) -> None:
        """In the batcher's thread: what was settled belongs to exactly these events."""
        session, place = self._stream.session, None
        if session.settled_samples > self._settled_samples:
            self._settled_samples = settled = session.settled_samples
            grid = self.audio.grid_samples if self.audio.is_raw else 1
            origin = self._reach.origin(settled, grid)
            memories = session.voice_memory(origin).to_bytes(), session.speaker_memory().to_bytes()
            place = self.origin_samples + settled, self.origin_samples + origin, *memories
        self._loop.call_soon_threadsafe(self._arrived, events, place)

    def _end_from_batcher(self, stream: BatchedStream) -> None:
        self._loop.call_soon_threadsafe(self._ended, stream.problem)

    def _arrived(self, events: list[Event], place: tuple[int, int, bytes, bytes] | None) -> None:
        for event in events:
            if isinstance(event, Marker) and event.id == self._question:
                self._asking = False
                continue
            event = shifted(event, self.origin_samples)
            if isinstance(event, Final):
                number, self._finals = self._finals, self._finals + 1
                self._open_finals.append((number, event.end_samples))
                if number >= self._finals_seen:
                    self.log.add(event, number)
            elif not (isinstance(event, Problem) and event.fatal):
                self.log.add(event)
        if place is not None:
            self._settle(*place)
        self._metrics.events(events)
        self._changed()

    def _ended(self, problem: Problem | None) -> None:
        self.problem, self.over = problem, True
        self._changed()

    def _settle(self, segment: int, origin: int, voice: bytes, speakers: bytes) -> None:
        """Results of the sound before this sample were all given: move the place to resume on."""
        while self._open_finals and self._open_finals[0][1] <= segment:
            self._open_finals.popleft()
        while self._controls and self._controls[0][1] < segment:
            self._controls.popleft()
        self._point = Point(
            self.audio.bytes_at(origin) if self.audio.is_raw else 0,
            origin,
            segment,
            self._open_finals[0][0] if self._open_finals else self._finals,
            self._controls[0][0] if self._controls else self.messages_received,
            voice,
            speakers,
        )
        self._tell()

    def _tell(self) -> None:
        self._told_samples = heard = self._heard_samples()
        while self._arrivals and self._arrivals[0][1] <= heard:
            self._heard_bytes = self._arrivals.popleft()[0]
        samples = self._point.origin_samples if self.audio.is_raw else 0
        extra: dict[str, object] = {"heard_bytes": self._heard_bytes, "point": _plain(self._point)}
        extra["realtime_factor"] = round(self.figures[1], 4)
        self.log.add(Acknowledged(samples), extra=extra)
        self._changed()


def _plain(point: Point) -> dict[str, object]:
    return {name: getattr(point, name) for name in point.__struct_fields__}

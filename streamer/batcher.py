"""`Batcher`: many live streams on one device. The one place that knows of batching.

    batcher = Batcher(recogniser)
    with batcher:
        stream = batcher.open(settings, on_events)
        stream.feed(samples)  # any thread, never waits
        stream.finish()
        stream.wait()

One thread owns the device; batchers of several models on one device take turns (`SharedDevice`). Again and again it
takes the streams whose chunk is complete, those first whose result is due first, computes them in one step of the
model, and hands each stream its frames. Provisional passes fill the time that is left. A batcher that was not started
is driven by its caller with `settle`, in the caller's thread: one microphone or file needs no other.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence

from ..model import StreamingContext
from ..model.errors import StreamError
from .admission import BatcherRules, Overloaded
from .batched_stream import BatchedStream, Order, TakeEnd, TakeEvents
from .batcher_group import Group
from .batcher_statistics import BatcherStatistics, Tally
from .batcher_work import BatcherWork
from .calibration import calibrate
from .events import Problem
from .recogniser import Recogniser
from .saved_stream import SavedStream
from .session_settings import SessionSettings
from .shared_device import Share, SharedDevice
from .step_time import cost_clock_of
from .stream_slots import SlotEncoder

logger = logging.getLogger(__name__)

RETRY_S = 5.0
"""When a stream that was refused may ask again."""


class Batcher(BatcherWork):
    """Streams of one recogniser, computed together.

    Args:
        recogniser: whose model computes.
        rules: what is promised, and what is given up first.
        clock: seconds that only grow; all deadlines are on it.
        cost_clock: on which the costs of steps are measured that admission reckons with, read in the batcher's thread;
            None: see `step_time.cost_clock_of`.
        device: that it shares with batchers of other models; None: it has the device to itself.

    Raises:
        ConfigurationError: the model cannot stream.
    """

    def __init__(
        self,
        recogniser: Recogniser,
        rules: BatcherRules | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        cost_clock: Callable[[], float] | None = None,
        device: SharedDevice | None = None,
    ) -> None:
        costs = cost_clock or cost_clock_of(recogniser.device, clock)
        super().__init__(recogniser, rules or BatcherRules(), clock, costs, device or SharedDevice())
        self._thread: threading.Thread | None = None
        self._closing = False
        self._refusal = ""  # why nobody is let in any more
        self.group_of(recogniser.contexts["default"])  # now, so that a model that cannot stream is told at once
        told = self.tally
        self.device.join(Share(self._places, self._load, told.late, told.busy, told.stretch.factor, self.open_streams))

    def __enter__(self) -> Batcher:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Let a thread of the batcher's own drive it. Once is enough.

        Raises:
            StreamError: the batcher was closed.
        """
        if self.rules.calibrate and self._thread is None:
            self.calibrate()
        with self.lock:
            if self._closing:
                raise StreamError("this batcher was closed; make a new one")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="wavlm-live batcher", daemon=True)
                self._thread.start()

    def calibrate(self) -> None:
        """Measure what steps cost, so that the first streams are admitted by measured cost too. Before `start`, which
        does it where it was not done."""
        for group in list(self.groups.values()):
            if not group.cost.known and self._thread is None:
                calibrate(
                    self.recogniser.model,
                    group.context,
                    group.cost,
                    self.rules.largest_batch,
                    self.clock,
                    cost_clock=self.cost_clock,
                    threads=group.slots.threads,
                    took=self.tally.stretch.add,
                )

    def close(self, message: str = "the server is closing") -> None:
        """End every stream with a `Problem` that says why, and the thread. Once is enough.

        To lose nothing, `stop_admitting`, `finish` the streams and `wait` for them before.
        """
        with self.lock:
            self._closing = True
            self._refusal = self._refusal or message
            self.wake.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        within = threading.current_thread() is self._thread  # which has its turn already
        with contextlib.nullcontext() if within else self.device.turn():
            for stream in list(self.streams):
                self.end(stream, self.resumable(stream, "closed", message))

    def stop_admitting(self, reason: str = "the server is closing") -> None:
        """Refuse new streams from now on; those that are open go on."""
        with self.lock:
            self._refusal = reason

    def open(
        self,
        settings: SessionSettings | None = None,
        on_events: TakeEvents = lambda events: None,
        *,
        on_end: TakeEnd | None = None,
        saved: SavedStream | None = None,
        deaf_samples: int = 0,
    ) -> BatchedStream:
        """Begin a stream, or go on with a saved one.

        Args:
            settings: how to listen; None: in the usual way, or as the saved stream did.
            on_events: is given the events, in the batcher's thread: it must not wait for anything.
            on_end: is called after the last of them.
            saved: go on from there; its sound from `samples_taken` on is expected.
            deaf_samples: give no events of the sound before this sample, see `Session.deafen`.

        Raises:
            Overloaded: there is no room for one more; it says why and when to ask again.
            ConfigurationError: settings that this model cannot serve, or other settings than the saved stream's.
            StreamError: a saved stream of another model.
        """
        group, number = self._admit((saved.settings if saved else settings) or SessionSettings())
        try:
            encoder = SlotEncoder(self.recogniser.model.config)
            if saved is None:
                session = self.recogniser.open(settings, encoder)
            else:
                session = saved.session(self.recogniser, encoder, settings)
            if deaf_samples:
                session.deafen(deaf_samples)
            stream = BatchedStream(self, group, number, encoder, session, on_events, on_end)
            stream.restore = saved
        except BaseException:
            with self.lock:
                group.streams -= 1
            raise
        with self.lock:
            if self._closing:
                group.streams -= 1
                raise Overloaded(self._refusal, RETRY_S)
            self.tally.opened += 1
            self.streams.add(stream)
            self.enqueue(stream, None)
        return stream

    def settle(self) -> None:
        """Drive a batcher that was not started until nothing is left to do; else nothing."""
        if self._thread is None:
            while self.tick():
                pass

    def statistics(self) -> BatcherStatistics:
        """How it stands now."""
        return Batcher.statistics_of([self])

    @staticmethod
    def statistics_of(batchers: Sequence[Batcher]) -> BatcherStatistics:
        """How several of one device stand now, as if they were one."""
        device, now_s = batchers[0].device, batchers[0].clock()
        with device.lock:
            tally = Tally.merged([batcher.tally for batcher in batchers], now_s)
            open_now = sum(len(batcher.streams) for batcher in batchers)
            queued = sum(stream.queued_samples for batcher in batchers for stream in batcher.streams)
            return tally.snapshot(now_s, open_now, queued, sum(batcher._load() for batcher in batchers))

    # Orders, under the lock ------------------------------------------------------------------------------

    def enqueue(self, stream: BatchedStream, order: Order | None, now: bool = True) -> None:
        """Have the thread look at a stream, for an order or because it was aborted; or later, where the order is not
        enough to do anything `now`. Under the lock."""
        if order is not None:
            stream.orders.append(order)
        if now and not stream.listed:
            stream.listed = True
            self.listed.append(stream)
            self.wake.notify()

    # Admission -------------------------------------------------------------------------------------------

    def _context(self, settings: SessionSettings) -> StreamingContext:
        return settings.context or self.recogniser.contexts["default"]

    def _load(self, extra: Group | None = None) -> float:
        """Share of the time that committing steps take, with one stream more in a group."""
        return sum(self.expected_load(group, group.streams + (group is extra)) for group in list(self.groups.values()))

    def _places(self) -> int:
        return sum(group.streams for group in self.groups.values())

    def _admit(self, settings: SessionSettings) -> tuple[Group, int]:
        """Take a place for one more stream: its group and its number."""
        group = self.group_of(self._context(settings))
        rules = self.rules
        with self.lock:
            reason = self._refusal
            open_now = self.device.sessions
            if not reason and open_now >= rules.most_sessions:
                reason = f"{open_now} streams are open, and this server takes {rules.most_sessions}"
            if not reason and open_now:
                load = self.device.load - self._load() + self._load(group)
                late_s, stretched = self.device.late_s(self.clock()), load * self.device.stretch()
                if load > rules.most_load:
                    reason = (
                        f"{open_now} streams are open, and one more would take {load:.0%} of the time there is "
                        f"(at most {rules.most_load:.0%})"
                    )
                elif stretched > rules.most_load:
                    reason = (
                        f"{open_now} streams are open, and with what else this machine does one more would take "
                        f"{stretched:.0%} of the time there is (at most {rules.most_load:.0%})"
                    )
                elif late_s > rules.late_s / 2:
                    reason = f"the server falls behind: results come {late_s:.1f} s late"
            if reason:
                self.tally.refused += 1
                raise Overloaded(reason, RETRY_S)
            group.streams += 1
            self.device.opened += 1
            return group, self.device.opened

    # The thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self.lock:
                while not (self._closing or self.listed or self.busy):
                    self.wake.wait()
                if self._closing:
                    return
            with self.device.turn():
                self._tick_safely()

    def _tick_safely(self) -> None:
        try:
            self.tick()
        except Exception as error:
            logger.exception("the batcher failed; all its streams are ended")
            for stream in list(self.streams):
                self.end(stream, Problem("internal", f"the server failed: {error}; open a new stream", fatal=True))

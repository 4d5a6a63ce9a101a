"""`BatchedStream`: the handle of one stream in a batcher. Any thread may use it, nothing in it waits for the device."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..model.errors import ConfigurationError, StreamError
from .admission import QueueFull
from .chunker import check_sound
from .decoding import hotwords_for
from .events import Event, Problem
from .pace import Pace
from .session import Session
from .session_settings import SessionSettings
from .stream_slots import SlotEncoder

if TYPE_CHECKING:
    from .batcher import Batcher
    from .batcher_group import Group
    from .saved_stream import SavedStream

TakeEvents = Callable[[list[Event]], None]
TakeEnd = Callable[["BatchedStream"], None]


@dataclass(slots=True)
class Order:
    """What a caller asked of the stream; orders are followed one after the other."""

    kind: Literal["sound", "flush", "mark", "hotwords", "change", "finish", "save"]
    samples: np.ndarray | None = None
    due_s: float = 0.0
    """When the last sample is there, at the pace of speech: a client that sends a file at once is not in a hurry."""
    came_s: float = 0.0
    """When it was fed: no part of it is due before."""
    id: str = ""
    hotwords: tuple[tuple[str, float], ...] = ()
    settings: SessionSettings | None = None
    saved: Future[SavedStream] | None = None


class BatchedStream:
    """One stream; `Batcher.open` makes it.

    Events come to `on_events` in the batcher's thread, in order, in lists that are never empty. After the last of them
    `on_end` is called once.
    """

    def __init__(
        self,
        batcher: Batcher,
        group: Group,
        number: int,
        encoder: SlotEncoder,
        session: Session,
        on_events: TakeEvents,
        on_end: TakeEnd | None,
    ) -> None:
        self.number = number
        """Counts up with each stream of the batcher; the newest has the highest."""
        self.session = session
        """Belongs to the batcher's thread."""
        self.ready = session.ready
        """The event that opens the stream; it does not come again."""
        self.problem: Problem | None = None
        """Why the batcher ended the stream; None where it did not."""
        self.saved: SavedStream | None = None
        """Where the stream stood when it was ended for lack of time: `Batcher.open(saved=...)` goes on from there,
        with the sound from `saved.samples_taken` on."""
        self._batcher = batcher
        self._ended = threading.Event()
        self._over = False  # the same, for those who ask often
        self._accepted = session.samples_taken  # samples fed, the waiting ones too
        self._decided, self._settled = session.decided_samples, session.settled_samples
        self._finishing = False
        self._aborted = False
        # what follows belongs to the batcher: the orders under its lock, the rest to its thread
        self.orders: deque[Order] = deque()
        self.queued = 0
        """Samples in the orders."""
        self.laid = 0
        """Those of them that only wait for the rest of their chunk."""
        self.wanted = 0
        """With fewer samples than this, and no other order, there is nothing to do."""
        self.stepping = False
        """The stream waits for a committing step: its orders are looked at behind it."""
        self.listed = False
        """The batcher knows that there are orders."""
        self.pace = Pace(batcher.clock())
        self.group, self.encoder = group, encoder
        self.on_events, self.on_end = on_events, on_end
        self.attached = False
        """The stream has its slot."""
        self.restore: SavedStream | None = None
        """What the slot is to be filled with when it is there."""
        self.due_s = self.pace.due_s
        """When the newest sound that was pushed into the plan was there."""
        self.busy_s = 0.0
        """Its share of the time that steps took."""
        self.latency_s = 0.0
        """From the last sample of the newest chunk, at the pace of speech, to its events."""

    # For any thread --------------------------------------------------------------------------------------

    @property
    def queued_samples(self) -> int:
        """Samples fed that wait to be computed; not those that wait for the rest of their chunk to be spoken."""
        return max(0, self.queued - self.laid)

    @property
    def samples_taken(self) -> int:
        """Samples fed so far, the waiting ones too."""
        return self._accepted

    @property
    def decided_samples(self) -> int:
        """Every sample before this one lies in a `Final` that was given out, or is silence. A client that loses the
        stream need not send them again."""
        return self._decided

    @property
    def settled_samples(self) -> int:
        """The last place where a segment ended of which nothing is left, see `Session.settled_samples`."""
        return self._settled

    @property
    def ended(self) -> bool:
        """No more events come."""
        return self._over

    @property
    def room_samples(self) -> int:
        """Samples that `feed` takes now."""
        return max(0, self._batcher.queue_samples - self.queued)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for the end, after `finish` or `abort`; False where it did not come in time.

        A batcher that was not started is driven until nothing is left to do.
        """
        self._batcher.settle()
        return self._ended.wait(timeout_s)

    def feed(self, samples: np.ndarray) -> None:
        """Take sound; it is copied, and nothing is waited for.

        Args:
            samples: float32 `[samples]`, mono at 16 kHz, full scale 1; any number of them, none too.

        Raises:
            AudioError: another type or shape, or values that are not finite; nothing was taken.
            QueueFull: so much does not fit behind what waits already; nothing was taken.
            StreamError: the stream was finished, or has ended.
        """
        check_sound(samples, self._accepted)
        copy = samples.copy()
        batcher = self._batcher
        with batcher.lock:
            self._check_open()
            if self.queued + len(copy) > batcher.queue_samples:
                raise QueueFull(
                    f"{len(copy)} samples do not fit: {self.queued} wait to be computed and the queue holds "
                    f"{batcher.queue_samples} ({batcher.rules.queue_s:g} s); wait until queued_samples has fallen"
                )
            now_s = batcher.clock()
            due_s = self.pace.came(now_s, len(copy), self.queued > self.group.chunk_samples)
            self.queued += len(copy)
            self._accepted += len(copy)
            if not (enough := self.queued >= self.wanted) and not self.stepping:
                self.laid = self.queued
            batcher.enqueue(self, Order("sound", copy, due_s, now_s), enough and not self.stepping)

    def flush(self) -> None:
        """End the segment with the sound fed so far, see `Session.flush`.

        Raises:
            StreamError: the stream was finished, or has ended.
        """
        self._order(Order("flush"))

    def mark(self, id: str) -> None:
        """Have a `Marker` returned when the sound fed so far is decided, see `Session.mark`. A mark that cannot be set
        is answered by a `Problem` that is not fatal.

        Raises:
            StreamError: the stream was finished, or has ended.
        """
        self._order(Order("mark", id=id))

    def set_hotwords(self, hotwords: tuple[tuple[str, float], ...]) -> None:
        """Expect other phrases from the next sample on, see `Session.set_hotwords`.

        Raises:
            ConfigurationError: a phrase that cannot work, or a stream that decodes greedily; nothing has changed.
            StreamError: the stream was finished, or has ended.
        """
        decoding = self.session.settings.decoding
        if decoding.method != "beam":
            raise ConfigurationError(
                'this session decodes greedily and has no use for hotwords; open it with method "beam"'
            )
        hotwords_for(self._batcher.recogniser.alphabet, replace(decoding, hotwords=hotwords).hotwords)
        self._order(Order("hotwords", hotwords=hotwords))

    def change(self, settings: SessionSettings) -> None:
        """Listen differently from the next sample on, see `Session.change`.

        Raises:
            ConfigurationError: what cannot change within a stream; nothing has changed.
            StreamError: the stream was finished, or has ended.
        """
        self.session.check_change(settings)
        self._order(Order("change", settings=settings))

    def finish(self) -> None:
        """No more sound comes: everything fed is computed, to the last word; then the stream ends. Once is enough."""
        with self._batcher.lock:
            if self._finishing or self.ended:
                return
            self._finishing = True
            self._batcher.enqueue(self, Order("finish"))

    def abort(self) -> None:
        """End at once: what waits is dropped, no more events come but those on their way."""
        with self._batcher.lock:
            if self.ended or self._aborted:
                return
            self._finishing = self._aborted = True
            self.orders.clear()
            self.queued = 0
            self._batcher.enqueue(self, None)

    def save(self, timeout_s: float | None = 60.0) -> SavedStream:
        """The stream as it is when everything fed so far was computed: `Batcher.open(saved=...)` goes on exactly from
        there, in this process or another. The stream itself goes on too, unless it is aborted.

        Not in `on_events`: it waits for the batcher's thread.

        Raises:
            StreamError: the stream was finished, or has ended.
            TimeoutError: it could not be computed in time.
        """
        future: Future[SavedStream] = Future()
        self._order(Order("save", saved=future))
        self._batcher.settle()
        return future.result(timeout_s)

    # For the batcher -------------------------------------------------------------------------------------

    @property
    def aborted(self) -> bool:
        """The caller wants no more of it."""
        return self._aborted

    def note_decided(self) -> None:
        """Take over where the session stands."""
        self._decided, self._settled = self.session.decided_samples, self.session.settled_samples

    def close(self, problem: Problem | None) -> None:
        """The stream is over; with a problem, the batcher ended it. Under the batcher's lock."""
        self.problem = problem
        self._finishing = True
        gone = StreamError("the stream ended before it could be saved")
        for order in self.orders:
            if order.saved is not None:
                order.saved.set_exception(gone)
        self.orders.clear()
        self.queued = 0
        self._over = True
        self._ended.set()

    def _order(self, order: Order) -> None:
        with self._batcher.lock:
            self._check_open()
            self._batcher.enqueue(self, order)

    def _check_open(self) -> None:
        if self.ended or self._aborted:
            why = f": {self.problem.message}" if self.problem else ""
            raise StreamError(f"this stream has ended{why}; open a new one for more sound")
        if self._finishing:
            raise StreamError("this stream was finished; open a new one for more sound")

"""`BatcherWork`: what the batcher's thread does: follow orders, choose the next step, compute it, end streams."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from ..model import StreamingContext
from ..model.errors import WavLMLiveError
from .batched_stream import BatchedStream, Order
from .batcher_ends import BatcherEnds
from .batcher_group import Group
from .encoder import EncoderStep
from .events import SAMPLE_RATE, Event, Problem
from .stream_slots import Row, StreamSlots
from .voice_detector import Hearing

logger = logging.getLogger(__name__)

CUDA_SLOTS = 256
"""Slots that there is memory for at first on a GPU: steps are captured anew whenever there come to be more."""
FEW_VOICES = 8
"""Fewer voice detectors hear one by one: some hundred small calls of a device serve all, or a few."""
BREATH_S = 1.0
"""No provisional passes for so long after a result came late."""


class BatcherWork(BatcherEnds):
    """The part of `Batcher` that runs in its thread. `tick` is all of it, once."""

    @property
    def queue_samples(self) -> int:
        """Samples that one stream may have waiting."""
        return round(self.rules.queue_s * SAMPLE_RATE)

    @property
    def busy(self) -> bool:
        """A step waits to be computed."""
        return any(group.due or group.flushing or group.looking for group in self.groups.values())

    def group_of(self, context: StreamingContext) -> Group:
        """The streams under a context; made when first asked for."""
        with self.lock:
            if context not in self.groups:
                rules, first = self.rules, self.rules.idle_slots
                if self.recogniser.device.type == "cuda":
                    first = max(first, CUDA_SLOTS)
                slots = StreamSlots(
                    self.recogniser.model,
                    context,
                    min(first, rules.most_sessions),
                    rules.most_sessions,
                    silent=self.recogniser.alphabet.silent_ids,
                    threads=self.recogniser.thread_choice(many=rules.largest_batch > 1),
                )
                self.groups[context] = Group(context, slots)
            return self.groups[context]

    def tick(self) -> bool:
        """Follow what callers asked for, then compute one step; False where there was nothing to do."""
        with self.lock:
            listed, self.listed = self.listed, []
            for stream in listed:
                stream.listed = False
        self._hear_voices(listed)
        for stream in listed:
            self._follow(stream)
        return self._step() or bool(listed)

    def _hear_voices(self, streams: Sequence[BatchedStream]) -> None:
        """Have the voice detectors of streams that are about to be followed hear their next chunk together."""
        if len(streams) < FEW_VOICES or self.voices is None:
            return
        hearing: list[tuple[BatchedStream, Hearing]] = []
        for stream in streams:
            if stream.stepping or stream.ended or stream.queued < stream.wanted:
                continue
            parts, room = [], stream.group.chunk_samples
            with self.lock:
                for order in stream.orders:
                    if order.samples is not None and room > 0:
                        parts.append(order.samples[:room])
                        room -= len(parts[-1])
            if (coming := stream.session.coming_voice(parts)) is not None:
                hearing.append((stream, coming))
        if len(hearing) < FEW_VOICES:
            return
        try:
            results = self.voices.hear([coming for _, coming in hearing])
        except Exception:  # the device's memory is full, say; no stream has noticed anything yet
            logger.exception("voices cannot be heard together, from now on each is heard for itself")
            self.voices = None
            return
        for (stream, _), (probabilities, states) in zip(hearing, results, strict=True):
            stream.session.voice_heard(probabilities, states)

    # Orders ----------------------------------------------------------------------------------------------

    def _follow(self, stream: BatchedStream, step: EncoderStep | None = None) -> None:
        """Give a stream the step that it waited for, if any, and follow its orders up to the next one."""
        if stream.ended:
            return
        stream.group.leave(stream)
        stream.stepping = False
        if stream.aborted:
            self.end(stream, None)
            return
        try:
            if not stream.attached:
                self._attach(stream)
            if step is not None:
                stream.session.plan.give(step)
            self._advance(stream)
            if step is not None:
                stream.note_decided()
        except Exception as error:
            logger.exception("stream %d failed", stream.number)
            self.end(stream, self.resumable(stream, "internal", f"the server failed on this stream: {error}"))

    def _attach(self, stream: BatchedStream) -> None:
        stream.group.slots.open(stream.encoder)
        stream.attached = True
        if stream.restore is not None:
            stream.group.slots.write(stream.encoder, stream.restore.state)
            stream.restore = None

    def _advance(self, stream: BatchedStream) -> None:
        plan = stream.session.plan
        while not stream.ended:
            need = plan.need()
            if skipped := plan.take_skipped():
                with self.lock:
                    self.tally.skipped += skipped
            self._deliver(stream, plan.take())
            if plan.over:
                stream.note_decided()
                self.end(stream, None)
            elif need is not None and not need.droppable:
                stream.group.wait(stream, need)
                stream.stepping = True
                return
            else:
                order = self._next_order(stream)
                if order is None:
                    if need is not None:
                        stream.group.wait(stream, need)
                    return
                if need is not None:
                    self._count_dropped(1)
                self._obey(stream, order)

    def _next_order(self, stream: BatchedStream) -> Order | None:
        """The next order; sound is handed out a chunk at a time, however it came. None: there is none, or not enough
        sound for anything to come of it."""
        most = stream.group.chunk_samples
        wanted = min(stream.session.wanted_samples, most, self.queue_samples // 2)
        with self.lock:
            if stream.queued < wanted and all(order.samples is not None for order in stream.orders):
                stream.wanted, stream.laid = wanted, stream.queued
                return None
            stream.laid = 0
            if not stream.orders:
                return None
            first = stream.orders.popleft()
            if first.samples is None:
                return first
            parts, count, last = [first.samples], len(first.samples), first
            while count < most and stream.orders and (more := stream.orders[0].samples) is not None:
                last = stream.orders.popleft()
                parts.append(more)
                count += len(more)
            samples = np.concatenate(parts) if len(parts) > 1 else parts[0]
            due_s = last.due_s
            if count > most:
                stream.orders.appendleft(Order("sound", samples[most:], due_s, last.came_s))
                due_s = max(last.came_s, due_s - (count - most) / SAMPLE_RATE)
                samples = samples[:most]
            stream.queued -= len(samples)
            self.tally.samples += len(samples)
            return Order("sound", samples, due_s)

    def _obey(self, stream: BatchedStream, order: Order) -> None:
        session = stream.session
        events: list[Event] = []
        try:
            if order.samples is not None:
                stream.due_s = order.due_s
                session.begin_feed(order.samples, True)
            elif order.kind == "flush":
                session.begin_flush()
            elif order.kind == "mark":
                events = session.mark(order.id)
            elif order.kind == "hotwords":
                session.set_hotwords(order.hotwords)
            elif order.settings is not None:
                session.change(order.settings)
            elif order.kind == "finish":
                session.begin_finish()
            elif order.saved is not None:
                order.saved.set_result(self.saved(stream))
        except WavLMLiveError as error:
            if order.samples is not None or order.kind == "finish":
                raise
            events = [Problem("refused", str(error))]
            if order.saved is not None:
                order.saved.set_exception(error)
        if order.samples is None:
            stream.note_decided()
        self._deliver(stream, events)

    def _deliver(self, stream: BatchedStream, events: list[Event]) -> None:
        if not events:
            return
        stream.note_decided()  # whoever is told may ask
        try:
            stream.on_events(events)
        except Exception:
            logger.exception("on_events of stream %d failed; the stream is ended", stream.number)
            self.end(stream, None)

    # Steps -----------------------------------------------------------------------------------------------

    def _step(self) -> bool:
        """Compute the step that is due first."""
        groups = self.groups.values()
        due = min((g for g in groups if g.due or g.flushing), key=Group.earliest_s, default=None)
        look = min((g for g in groups if g.looking), key=lambda g: g.looking.earliest_s, default=None)
        if look is not None and (due is None or look.looking.earliest_s < due.earliest_s()):
            if self._has_room():
                self._compute(look, look.next_looks(self.rules.largest_batch), commit=False, wanted=False)
                return True
            if due is None:
                self._leave_out(look)
                return True
        if due is None:
            return False
        streams, commit = due.next_due(self.rules.largest_batch)
        self._compute(due, streams, commit=commit, wanted=True)
        return True

    def _has_room(self) -> bool:
        """Whether there is time for provisional passes."""
        now_s = self.clock()
        if now_s < self.device.looks_from_s:
            return False
        commit, look = self.device.busy(now_s)
        return look < self.rules.provisional_load - commit

    def _leave_out(self, group: Group) -> None:
        streams = group.looking.take(len(group.looking))
        self._count_dropped(len(streams))
        for stream in streams:
            stream.session.plan.give(None)

    def _count_dropped(self, count: int) -> None:
        with self.lock:
            self.tally.provisional_dropped += count

    def _compute(self, group: Group, streams: list[BatchedStream], *, commit: bool, wanted: bool) -> None:
        """One step for streams of a group, and what comes of it."""
        start_s, start_cost_s = self.clock(), self.cost_clock()
        needs = [stream.session.plan.need() for stream in streams]
        rows = [
            Row(s.encoder, need is not None and need.final, s.session.reading is None, s.session.reading)
            for s, need in zip(streams, needs, strict=True)
        ]
        try:
            steps = group.slots.compute(rows, commit=commit)
        except Exception as error:
            logger.exception("a step of %d streams failed; they are ended", len(streams))
            for stream in streams:
                self.end(
                    stream, self.resumable(stream, "device", f"the step that computed this stream failed: {error}")
                )
            return
        for stream in streams:
            stream.stepping = False
        self._hear_voices(streams)  # of those that have sound for one chunk more
        latencies: list[float] = []
        for stream, step in zip(streams, steps, strict=True):
            due_s = stream.due_s
            self._follow(stream, step)
            if commit:
                latency_s = self.clock() - due_s
                latencies.append(latency_s)
                stream.latency_s = max(0.0, latency_s)
        late_s = max(0.0, max(latencies, default=0.0) - group.chunk_s)
        now_s, cost_s = self.clock(), self.cost_clock() - start_cost_s
        if commit:
            group.cost.learn(len(streams), cost_s, now_s)
        else:
            group.look_cost.learn(len(streams), now_s - start_s, now_s)
        for stream in streams:
            stream.busy_s += (now_s - start_s) / len(streams)
        with self.lock:
            for latency_s in latencies:
                self.tally.latency_s.add(max(0.0, latency_s))
            self.tally.step(now_s, now_s - start_s, len(streams), commit)
            self.tally.stretch.add(now_s - start_s, cost_s)
            if commit:
                self.tally.came(now_s, late_s)
        if late_s > 0 and wanted:
            self.device.looks_from_s = now_s + BREATH_S
        if late_s > self.rules.late_s and now_s >= self.device.ends_from_s:
            self._end_newest(now_s, late_s)

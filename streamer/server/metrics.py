"""What `/metrics` tells, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.metrics_core import CounterMetricFamily

from ..events import Event, Final, Problem
from .offered_models import OfferedModels


class Metrics:
    """Counters of one server, and its batchers' own figures.

    Args:
        models: whose figures are told: together, and some of them by model.
    """

    def __init__(self, models: OfferedModels) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"wavlm_live_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"wavlm_live_{name}", text, labels, registry=registry)

        self.connections = gauge("connections", "Open connections.", "protocol")
        self.held = gauge("held_streams", "Broken streams that wait for their client.")
        self.streams = counter("streams", "Streams that were begun.", "protocol")
        self.resumed = counter("resumed", "Streams that went on after a break.", "how")
        self.refused = counter("refused", "Clients that were turned away.", "code")
        self.errors = counter("errors", "Streams and requests that ended with an error.", "code")
        self.bytes_in = counter("received_bytes", "Encoded sound that came.")
        self.bytes_out = counter("sent_bytes", "Messages that were sent.")
        self.finals = counter("finals", "Final results.", "reason")
        self.throttled = counter("throttled", "Times that a client sent too fast and had to wait.")
        self.left_out = counter("left_out", "Activity events that were left out for slow readers.")
        registry.register(_BatcherFigures(models))

    def received(self, count: int) -> None:
        """Encoded sound came."""
        self.bytes_in.inc(count)

    def events(self, events: Sequence[Event]) -> None:
        """A stream gave events."""
        for event in events:
            if isinstance(event, Final):
                self.finals.labels(event.reason).inc()
            elif isinstance(event, Problem):
                self.errors.labels(event.code).inc()

    def text(self) -> bytes:
        """The page."""
        return generate_latest(self.registry)


_GAUGES = {
    "sessions": "Streams that are open in the batcher.",
    "queued_s": "Seconds of sound that wait for the model.",
    "batch_mean": "Streams in a step of the model.",
    "batch_largest": "Most streams in a step so far.",
    "step_p50_ms": "Duration of a step, half of the last ones are shorter.",
    "step_p99_ms": "Duration of a step, 99 in 100 of the last ones are shorter.",
    "latency_p50_ms": "From the last sample of a chunk to its events, median.",
    "latency_p99_ms": "From the last sample of a chunk to its events, 99th percentile.",
    "late_s": "How much later than in time the last result came.",
    "load": "Share of the last seconds in which the device was computing.",
    "load_expected": "Share that the open streams are expected to take.",
    "stretch": "How many times as long steps last as they compute, because of other work on the machine.",
    "realtime_factor": "Seconds of computing for a second of sound.",
}
_COUNTERS = {
    "opened": "Streams that the batcher let in.",
    "refused": "Streams that the batcher refused.",
    "finished": "Streams that came to their end.",
    "ended_overloaded": "Streams that were ended because the device fell behind.",
    "ended_failed": "Streams that were ended by an error.",
    "steps": "Steps of the model that committed.",
    "chunks": "Chunks of sound in them.",
    "skipped": "Chunks that were not computed because their streams slept.",
    "provisional": "Provisional passes.",
    "provisional_dropped": "Provisional passes that were left out for lack of time.",
    "audio_s": "Seconds of sound computed.",
    "busy_s": "Seconds of computing.",
}


_BY_MODEL = ("sessions", "latency_p50_ms", "latency_p99_ms", "load_expected", "refused", "steps", "audio_s", "busy_s")


class _BatcherFigures:
    """The batchers' statistics, read when Prometheus asks."""

    def __init__(self, models: OfferedModels) -> None:
        self._models = models

    def collect(self) -> Iterable[Metric]:
        figures = self._models.statistics()
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(f"wavlm_live_batcher_{name}", text, value=getattr(figures, name))
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"wavlm_live_batcher_{name}", text, value=getattr(figures, name))
        by_model = {name: batcher.statistics() for name, batcher in self._models.batchers.items()}
        for name in _BY_MODEL:
            text = (_GAUGES | _COUNTERS)[name]
            kind = GaugeMetricFamily if name in _GAUGES else CounterMetricFamily
            family = kind(f"wavlm_live_model_{name}", f"Of each model: {text}", labels=["model"])
            for model, own in by_model.items():
                family.add_metric([model], getattr(own, name))
            yield family

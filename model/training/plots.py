"""Plots of an evaluation: error rates against latency, curves of detectors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigurationError
from .run_folder import write_atomically

FORMATS = ("png", "svg", "pdf")


def _save(figure: Any, path: str | Path) -> None:
    path = Path(path)
    kind = path.suffix.lstrip(".").lower()
    if kind not in FORMATS:
        raise ConfigurationError(f"cannot draw {path.name}; expected a name that ends in .{', .'.join(FORMATS)}")
    if not path.parent.is_dir():
        raise CheckpointError(f"cannot write {path}: there is no folder {path.parent}")
    write_atomically(path, lambda f: figure.savefig(f, format=kind, dpi=120))


def _axes() -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # draws without a display, and leaves pyplot's state alone

    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(alpha=0.3)
    return figure, axes


def plot_error_rates(result: Mapping[str, Any], path: str | Path) -> None:
    """Word error rates of each corpus against the latency of the context; whole utterances as dashed lines.

    Args:
        result: of `evaluate.report`.
        path: .png, .svg or .pdf.

    Raises:
        ConfigurationError: another format.
        CheckpointError: it cannot be written.
    """
    figure, axes = _axes()
    contexts: Mapping[str, Any] = result["contexts"]
    streamed = sorted((c for c in contexts.values() if "latency_ms" in c), key=lambda c: c["latency_ms"])
    whole = next((c for c in contexts.values() if "latency_ms" not in c), None)
    for number, corpus in enumerate(next(iter(contexts.values()))["rates"]):
        color, width = f"C{number}", 2.5 if corpus == "all" else 1.2
        points = [(c["latency_ms"], 100 * c["rates"][corpus]["wer"]) for c in streamed]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", color=color, linewidth=width, label=corpus)
        if whole is not None:
            axes.axhline(100 * whole["rates"][corpus]["wer"], color=color, linestyle="--", linewidth=0.8)
    axes.set_xlabel("latency of the context, ms (dashed: the whole utterance at once)")
    axes.set_ylabel("word error rate, %")
    axes.set_ylim(bottom=0)
    axes.legend()
    _save(figure, path)


def plot_curves(result: Mapping[str, Any], path: str | Path) -> None:
    """The ROC of each context, from the "curve" of `measure_head`: false alarms against hits.

    Raises:
        ConfigurationError: the head has no curve, or another format.
        CheckpointError: it cannot be written.
    """
    figure, axes = _axes()
    drawn = {name: c["curve"] for name, c in result["contexts"].items() if "curve" in c}
    if not drawn:
        raise ConfigurationError("this head has no curve to draw; its figures are in the table")
    for name, (alarms, misses) in drawn.items():
        axes.plot(alarms, [1.0 - m for m in misses], label=name)
    axes.plot([0, 1], [1, 0], color="0.7", linewidth=0.8)  # where the EER lies
    axes.set_xlabel("false alarms")
    axes.set_ylabel("hits")
    axes.set_title(str(result.get("task", "")))
    axes.legend()
    _save(figure, path)

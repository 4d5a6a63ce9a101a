"""Short answers of the command line: devices, models, doctor. Aligned columns on a screen, tabs in a pipe."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from .doctor import examine
from .language_models import bundled_language_models, language_model_path
from .models import KnownModel, bundled_models, cached_models, describe, find_model, pull, size_text
from .terminal import ResultStream, Terminal, escape

_MARKS = {"ok": ("ok", "green"), "absent": ("absent", "yellow"), "broken": ("missing", "bold red")}


def show_devices(terminal: Terminal) -> int:
    """The microphones, one a line: index, name, channels, rate, host API; `*` marks the default.

    Raises:
        DeviceError: PortAudio is missing.
    """
    from .sources.devices import list_input_devices

    devices = list_input_devices()
    if not devices:
        terminal.note("There is no input device: plug in a microphone, or start PulseAudio or PipeWire.")
        return 0
    _table(
        terminal,
        [
            (
                str(d.index),
                "*" if d.is_default else " ",
                d.name,
                f"{d.channels} ch",
                f"{d.default_rate:g} Hz",
                d.host_api,
            )
            for d in devices
        ],
    )
    return 0


def show_models(terminal: Terminal) -> int:
    """The models, one a line: name, kind, architecture, size; then the language models that `--lm` takes by name."""
    models = [*bundled_models(), *cached_models()]
    if not models:
        terminal.note(
            "There is no model here: none is bundled, and the hub's cache has none. See `wavlm-live models pull`."
        )
    rows = [(m.name, m.kind, m.architecture, size_text(m.size_bytes)) for m in models]
    for name in bundled_language_models():
        path = language_model_path(name)
        assert path is not None
        rows.append((name, "bundled", "language model (--lm)", size_text(path.stat().st_size)))
    _table(terminal, rows)
    return 0


def show_model(terminal: Terminal, name: str | None) -> int:
    """Facts about one model.

    Raises:
        CheckpointError: it is not here, or cannot be read.
    """
    _pairs(terminal, find_model(name))
    return 0


def show_pull(terminal: Terminal, name: str, revision: str | None) -> int:
    """Download a model and say what it is.

    Raises:
        CheckpointError: it cannot be had, or is no WavLM.
    """
    model = pull(name, revision)
    _pairs(terminal, model)
    if model.architecture != "WavLMForCTC":
        terminal.warn(f"{name} is a {model.architecture}: it has no CTC head, so it cannot write text")
    return 0


def show_doctor(terminal: Terminal, model: str | None, device: str) -> int:
    """The findings, as they are made.

    Returns:
        1 if something that is needed is missing, else 0.
    """
    out = ResultStream(terminal)
    code = 0
    terminal.wait("Looking ...")
    for check in examine(model, device):
        mark, style = _MARKS[check.status]
        if check.status == "broken":
            code = 1
        out.show(Text.assemble((f"{mark:<8}", style), f"{check.name:<12} {escape(check.found)}"))
        if check.advice and check.status != "ok":
            out.write(f"{'':<21}-> {check.advice}\n")
        terminal.wait("Looking ...")
    terminal.erase()
    return code


def _pairs(terminal: Terminal, model: KnownModel) -> None:
    facts = list(describe(model))
    width = max(len(label) for label, _ in facts)
    out = ResultStream(terminal)
    for label, value in facts:
        out.write(f"{escape(label):<{width}}  {escape(value)}\n")


def _table(terminal: Terminal, rows: Sequence[Sequence[str]]) -> None:
    out = ResultStream(terminal)
    rows = [[escape(cell) for cell in row] for row in rows]
    if not terminal.out.isatty():
        for row in rows:
            out.write("\t".join(row) + "\n")
        return
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        out.write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")

"""The folder of a training run: checkpoints written whole or not at all, a log in JSON lines, the settings."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import pickle
import platform
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError

log = logging.getLogger(__name__)

LAST = "last.pt"
BEST = "best.pt"
DECODING = "decoding.json"
"""Numbers of decoding that suit a model, beside its weights; see `streamer.decoding_defaults`."""
_FORMAT = 1


@dataclass
class Progress:
    """Where a run stands."""

    step: int = 0
    """Steps done, over all stages."""
    stage: int = 0
    stage_step: int = 0
    """Steps done within the stage."""
    elapsed_s: float = 0.0
    """Time spent, over all resumptions."""
    skipped: int = 0
    """Steps left out because loss or gradient was not finite."""
    heard_s: float = 0.0
    """Sound trained on."""
    best_score: float = math.inf
    """Lowest score on the dev set: for CTC the mean over the corpora of the word error rate."""
    next_dev_s: float = 0.0
    saved_s: float = 0.0
    """When the last checkpoint was written, on the clock of `elapsed_s`."""


def write_atomically(path: Path, write: Any) -> None:
    """Call `write(file)` on a temporary neighbour of `path` (binary), then move it into place.

    Raises:
        CheckpointError: the folder cannot be written (a full disk, say); the old file is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as f:
            write(f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as e:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(f"cannot write {path}: {e}; free some space and resume") from e


def machine() -> dict[str, Any]:
    """What a figure was measured on."""
    found: dict[str, Any] = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "system": platform.system(),
    }
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                found["processor"] = line.split(":", 1)[1].strip()
                break
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


class RunFolder:
    """Reads and writes one run's files.

    `last.pt` and `best.pt` are checkpoints (tensors and plain values only), `settings.json` the recipe,
    `log.jsonl` one object a line, `tensorboard/` the same numbers where tensorboard is installed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._board: Any = None
        self._inherited: bytes | None = None

    def inherit(self, start: str | Path) -> None:
        """Keep the numbers of decoding of the model that a run starts from: they suit what it becomes better than those
        for any model. `create` writes them.

        Args:
            start: its folder, or a checkpoint in the folder of a run; of anything else there is nothing to keep.
        """
        place = Path(start) if Path(start).is_dir() else Path(start).parent
        if Path(start).exists() and (place / DECODING).is_file():
            self._inherited = (place / DECODING).read_bytes()

    def create(self, settings: Mapping[str, Any], *, resume: bool) -> None:
        """Make the folder, or check that it can be continued.

        Raises:
            CheckpointError: it holds a run already and `resume` is false, or cannot be written.
        """
        if not resume and (self.path / LAST).exists():
            raise CheckpointError(f"{self.path} holds a run already; resume it, or choose another folder")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise CheckpointError(f"cannot make the folder {self.path}: {e.strerror}") from e
        text = json.dumps(dict(settings), indent=2).encode()
        write_atomically(self.path / "settings.json", lambda f: f.write(text))
        numbers = self._inherited
        if numbers is not None:
            write_atomically(self.path / DECODING, lambda f: f.write(numbers))

    def save(self, name: str, state: Mapping[str, Any]) -> None:
        """Write a checkpoint; a crash in between leaves the former one."""
        write_atomically(self.path / name, lambda f: torch.save({"format": _FORMAT, **state}, f))

    def load(self, name: str = LAST) -> dict[str, Any]:
        """Read a checkpoint of this run."""
        return load_checkpoint(self.path / name)

    def has(self, name: str = LAST) -> bool:
        """Whether there is such a checkpoint."""
        return (self.path / name).exists()

    def record(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Append one object to the log; numbers go to tensorboard too."""
        with open(self.path / "log.jsonl", "a", encoding="utf-8") as f:
            f.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        if self._board is None:
            self._board = _open_board(self.path / "tensorboard")
        if self._board:
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flush what is still to be written."""
        if self._board:
            self._board.close()
        self._board = None


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a training checkpoint (tensors and plain values; no code is run).

    Raises:
        CheckpointError: no such file, damaged, or not written by this trainer.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"there is no checkpoint {path}; a run writes {LAST} every few minutes")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as e:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {e}") from e
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of this trainer (format {_FORMAT} expected)")
    return state


def _open_board(path: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        log.info("tensorboard is not installed: the log goes to log.jsonl alone")
        return False
    return SummaryWriter(str(path))


@contextlib.contextmanager
def on_signal(call: Callable[[], None]) -> Iterator[None]:
    """On SIGINT or SIGTERM only `call`, so that a run ends in order (signals reach the main thread alone)."""

    def handle(number: int, frame: object) -> None:
        log.info("stopping after this step (signal %d)", number)
        call()

    former = {}
    with contextlib.suppress(ValueError):
        former = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def plain(value: Any) -> Any:
    """Mappings and sequences as dict and list, so that a checkpoint holds nothing but plain values."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value

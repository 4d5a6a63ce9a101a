"""`SavedStream`: one stream put away between two moments, to go on exactly there in another batcher or process.

It holds the slot of the encoder and what the session knows: open words, endpoints, sound that waits. As bytes it is a
safetensors file. What the session knows is pickled there, but never unpickled freely: only classes of this project's
decoding and segmenting are let in, and none of them does anything when it is made. Model, alphabet and language model
are not in it; who goes on must have the same.
"""

from __future__ import annotations

import copyreg
import io
import json
import pickle
import sys
import zlib
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..model import WavLMForCTC
from ..model.errors import ConfigurationError, StreamError
from ..model.voice_heads import VoiceHeads
from .alphabet import Alphabet
from .fusion import Context, Vocabulary, vocabulary_of
from .language_model import load_language_model
from .recogniser import Recogniser
from .session import Session
from .session_settings import SessionSettings
from .stream_slots import SlotEncoder

VERSION = "4"
MODULES = (
    "beam", "beam_frame", "chosen_frames", "chunker", "confidence", "decoding", "endpointing", "events", "fusion",
    "greedy", "heard_voices", "hotwords", "hypotheses", "marks", "plan", "prefix_search", "said", "segmenter",
    "session_settings", "silero", "sleep", "speakers", "stability", "steady", "stream_voice", "voice_activity",
    "voice_detector", "voice_memory",
)  # fmt: skip
"""Modules of this package whose classes a saved session may name."""
DEEPEST = 50_000
"""Nesting that is put up with: a beam's paths are chains with a link for each letter."""


@dataclass(frozen=True)
class SavedStream:
    """A stream between two moments."""

    model: str
    """Fingerprint of the model."""
    settings: SessionSettings
    """How it listens, its context among them."""
    samples_taken: int
    """Sound that it has heard or holds; go on with the sample after it."""
    decided_samples: int
    """Everything before this sample was given out in finals or is silence."""
    state: dict[str, Tensor]
    """The encoder's, by name, as `StreamSlots.read` gives it."""
    knowledge: bytes
    """The session's, pickled."""

    @classmethod
    def of(cls, recogniser: Recogniser, session: Session, state: dict[str, Tensor]) -> SavedStream:
        """Put a session and its encoder's state away; the session goes on as before."""
        return cls(
            fingerprint(recogniser.model),
            session.settings,
            session.samples_taken,
            session.decided_samples,
            state,
            _pickled(session.knowledge()),
        )

    def session(self, recogniser: Recogniser, encoder: SlotEncoder, settings: SessionSettings | None = None) -> Session:
        """The session, on an encoder whose slot is still to be filled with `state`.

        Raises:
            StreamError: another model, or something in it that does not belong there.
            ConfigurationError: other settings than it was saved with.
        """
        if settings is not None and settings != self.settings:
            raise ConfigurationError("a saved stream goes on with its own settings; open it without any")
        if fingerprint(recogniser.model) != self.model:
            raise StreamError(
                f"the stream was saved with another model than {recogniser.name or 'this one'}; go on where that one is"
            )
        session = recogniser.open(self.settings, encoder)
        path = self.settings.decoding.lm_path
        shared: dict[str, Any] = {"encoder": encoder, "alphabet": recogniser.alphabet, "voice heads": encoder.heads}
        if path is not None:
            shared["language model"] = model = load_language_model(path)
            shared["vocabulary"] = vocabulary_of(model)
        session.take_up(_unpickled(self.knowledge, shared))
        encoder.heard_samples = int(self.state["heard_samples"])
        encoder.committed_frames = int(self.state["committed_frames"])
        return session

    def to_bytes(self) -> bytes:
        """A safetensors file."""
        from safetensors.torch import save

        about = {"version": VERSION, "model": self.model, "taken": self.samples_taken, "decided": self.decided_samples}
        extra = {
            "about": json.dumps(about).encode(),
            "settings": _pickled(self.settings),
            "knowledge": self.knowledge,
        }
        tensors = {f"state.{name}": tensor.contiguous() for name, tensor in self.state.items()}
        return save(
            tensors | {name: torch.frombuffer(bytearray(data), dtype=torch.uint8) for name, data in extra.items()}
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> SavedStream:
        """Read what `to_bytes` wrote.

        Raises:
            StreamError: not that, or of a version that this one cannot read.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            tensors = load(data)
            about = json.loads(bytes(tensors.pop("about").numpy()))
            version, model = about["version"], str(about["model"])
            taken, decided = int(about["taken"]), int(about["decided"])
            settings, knowledge = (bytes(tensors.pop(name).numpy()) for name in ("settings", "knowledge"))
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise StreamError(f"{len(data)} bytes given are no saved stream ({error})") from error
        if version != VERSION:
            raise StreamError(f"the saved stream has version {version}, this program reads {VERSION}")
        state = {name.removeprefix("state."): tensor for name, tensor in tensors.items()}
        return cls(model, _unpickled(settings, {}), taken, decided, state, knowledge)


def fingerprint(model: WavLMForCTC) -> str:
    """Tells models apart: sizes, dtype, and a checksum of the weights before and behind the layers."""
    projection = model.wavlm.feature_projection.projection
    total = 0
    for tensor in (model.lm_head.weight, model.lm_head.bias, projection.weight, projection.bias):
        total = zlib.crc32(tensor.detach().float().cpu().numpy().tobytes(), total)
    config = model.config
    sizes = f"{config.hidden_size}x{config.num_hidden_layers}-{config.vocab_size}"
    return f"{sizes}-{model.lm_head.weight.dtype}-{total:08x}"


def make_array(dtype: str, shape: tuple[int, ...], data: bytes) -> np.ndarray:
    """An array of its own from its bytes."""
    return np.frombuffer(data, np.dtype(dtype)).reshape(shape).copy()


class _Pickler(pickle.Pickler):
    """Leaves out what both sides have, and what is only remembered to save work."""

    def persistent_id(self, obj: Any) -> str | None:
        if isinstance(obj, SlotEncoder):
            return "encoder"
        if isinstance(obj, Alphabet):
            return "alphabet"
        if isinstance(obj, VoiceHeads):
            return "voice heads"
        if isinstance(obj, Vocabulary):
            return "vocabulary"
        if hasattr(obj, "score") and hasattr(obj, "knows") and not isinstance(obj, type):
            return "language model"
        return None

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, np.ndarray):
            return make_array, (obj.dtype.str, obj.shape, obj.tobytes())
        if isinstance(obj, Context):
            return Context, (obj.total, obj.state, obj.word, obj.held, obj.hot)
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    """Lets in classes of the listed modules, and nothing else."""

    def __init__(self, data: bytes, shared: dict[str, Any]) -> None:
        super().__init__(io.BytesIO(data))
        self._shared = shared

    def persistent_load(self, pid: Any) -> Any:
        if pid not in self._shared:
            raise pickle.UnpicklingError(f"it needs the {pid}, which is not there")
        return self._shared[pid]

    def find_class(self, module: str, name: str) -> Any:
        package, _, last = module.rpartition(".")
        here = __name__.rpartition(".")[0]
        if module == __name__ and name == "make_array":
            return make_array
        if (module, name) == ("collections", "deque"):
            return deque
        if (module, name) == ("copyreg", "_reconstructor"):
            return copyreg._reconstructor  # type: ignore[attr-defined]
        if (package == here and last in MODULES) or module.endswith("wavlm_live.model.context"):
            found = super().find_class(module, name)
            if isinstance(found, type) and found.__module__ == module:
                return found
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no saved stream has")


def _pickled(value: Any) -> bytes:
    buffer = io.BytesIO()
    with _deep():
        try:
            _Pickler(buffer, protocol=5).dump(value)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise StreamError(f"this stream cannot be saved: {error}") from error
    return buffer.getvalue()


def _unpickled(data: bytes, shared: dict[str, Any]) -> Any:
    with _deep():
        try:
            return _Unpickler(data, shared).load()
        except StreamError:
            raise
        except Exception as error:
            raise StreamError(f"the saved stream cannot be read: {error}") from error


class _deep:
    """More nesting than usual within the block."""

    def __enter__(self) -> None:
        self._before = sys.getrecursionlimit()
        sys.setrecursionlimit(max(self._before, DEEPEST))

    def __exit__(self, *_: object) -> None:
        sys.setrecursionlimit(self._before)

"""A sliding window over a stream through any `WavLMForSequenceClassification`: keywords, emotions, languages.

`Classifier` is a model with its labels, loaded once. `ClassifierStream` takes sound in blocks of any size and gives
`Classification` events; each window is computed whole, so that its result is that of the model on those samples.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from ..model import WavLMForSequenceClassification, WavLMProcessor
from ..model.errors import CheckpointError, ConfigurationError, StreamError
from ..model.folders import Source, read_json
from .chunker import check_sound
from .events import SAMPLE_RATE, Classification, ClassShare, Ready
from .recogniser import compute_device

ARCHITECTURE = "WavLMForSequenceClassification"
WINDOWS_AT_ONCE = 8
"""Windows of a long block that are computed in one pass."""


@dataclass(frozen=True)
class ClassifierSettings:
    """How a stream is looked at.

    Raises:
        ConfigurationError: a value that cannot work; the message names the field.
    """

    window_ms: int = 1000
    """Sound that is classified at once: about as long as what the model was trained on."""
    hop_ms: int = 500
    """From the beginning of one window to that of the next."""
    least_score: float = 0.0
    """Windows whose best class is less probable are passed over."""
    top: int = 1
    """Classes that an event lists, the likeliest first."""

    def __post_init__(self) -> None:
        for name, least, most in (("window_ms", 25, 60_000), ("hop_ms", 10, 60_000), ("top", 1, 1000)):
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= most:
                raise ConfigurationError(
                    f"ClassifierSettings.{name} is {value!r}, expected a whole number from {least} to {most}"
                )
        if self.hop_ms > self.window_ms:
            raise ConfigurationError(
                f"ClassifierSettings.hop_ms is {self.hop_ms}, expected at most window_ms ({self.window_ms}): no sound "
                "may lie between two windows"
            )
        value = self.least_score
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ConfigurationError(f"ClassifierSettings.least_score is {value!r}, expected a number from 0 to 1")


class Classifier:
    """A model ready to classify.

    Args:
        model: it is put into evaluation mode and stays on its device.
        processor: normalises a window as in training.
        name: shown to users.
    """

    def __init__(self, model: WavLMForSequenceClassification, processor: WavLMProcessor, name: str = "") -> None:
        self.model = model.eval().requires_grad_(False)
        self.processor = processor
        self.name = name
        config = model.config
        self.labels = tuple(str(config.id2label.get(n, f"LABEL_{n}")) for n in range(config.num_labels))
        """Names of the classes, in the order of the outputs."""

    @classmethod
    def load(cls, name_or_path: str | os.PathLike[str], device: str | torch.device = "auto") -> Classifier:
        """Load a fine-tuned checkpoint: a folder or hub name in transformers' format.

        Raises:
            CheckpointError: no such checkpoint, or one of another kind.
            DeviceError: no such device.
        """
        where = compute_device(device)
        source = Source(name_or_path)
        kinds = read_json(source.need("config.json")).get("architectures")
        if isinstance(kinds, list) and kinds and ARCHITECTURE not in kinds:
            raise CheckpointError(
                f"{name_or_path} holds a {kinds[0]}, expected a {ARCHITECTURE} (a model that gives a recording a class)"
            )
        model = WavLMForSequenceClassification.from_pretrained(name_or_path, device=where)
        return cls(model, WavLMProcessor.from_pretrained(name_or_path), str(name_or_path))

    def open(self, settings: ClassifierSettings | None = None) -> ClassifierStream:
        """Begin a stream.

        Raises:
            ConfigurationError: a window that gives the model no frame.
        """
        return ClassifierStream(self, settings or ClassifierSettings())

    @torch.no_grad()
    def probabilities(self, windows: np.ndarray) -> np.ndarray:
        """Of each class, float32 `[windows, classes]`, for float32 `[windows, samples]` at 16 kHz."""
        inputs = self.processor(list(windows), sampling_rate=SAMPLE_RATE, return_attention_mask=False).input_values
        logits = self.model(inputs.to(self.model.classifier.weight.device)).logits
        return logits.float().softmax(-1).cpu().numpy()


class ClassifierStream:
    """One stream; a `Listener` like a session. The same sound gives the same events, whatever blocks it comes in.

    The last window ends with the sound; sound that is shorter than a window is a window of its own.

    Args:
        classifier: its model.
        settings: how to look.

    Raises:
        ConfigurationError: a window that gives the model no frame.
    """

    def __init__(self, classifier: Classifier, settings: ClassifierSettings) -> None:
        self._classifier, self.settings = classifier, settings
        self._window = settings.window_ms * SAMPLE_RATE // 1000
        self._hop = settings.hop_ms * SAMPLE_RATE // 1000
        self._least = classifier.model.config.receptive_samples
        if self._window < self._least:
            raise ConfigurationError(
                f"a window of {settings.window_ms} ms gives the model no frame; it needs {self._least} samples"
            )
        self.ready = Ready(classifier.name, f"{settings.window_ms} ms every {settings.hop_ms} ms", self._window)
        """The event that opens the stream."""
        self._sound = np.zeros(0, np.float32)  # from the beginning of the next window on
        self._start = 0  # of the next window
        self._covered = 0  # sound before this lies in a window
        self._taken = 0
        self._finished = False

    @property
    def samples_taken(self) -> int:
        """Samples fed so far."""
        return self._taken

    def feed(self, samples: np.ndarray) -> list[Classification]:
        """Take a block of sound, float32 `[samples]`, and return the windows that it completes.

        Raises:
            AudioError: another type or shape, or values that are not finite; nothing was taken.
            StreamError: the stream was finished.
        """
        if self._finished:
            raise StreamError("this stream was finished; open a new one for more sound")
        check_sound(samples, self._taken)
        self._taken += len(samples)
        self._sound = np.concatenate([self._sound, samples])
        events: list[Classification] = []
        while len(self._sound) >= self._window:
            count = min(WINDOWS_AT_ONCE, (len(self._sound) - self._window) // self._hop + 1)
            starts = [n * self._hop for n in range(count)]
            windows = np.stack([self._sound[at : at + self._window] for at in starts])
            events += self._classified(windows, [self._start + at for at in starts])
            self._covered = self._start + starts[-1] + self._window
            self._sound = self._sound[count * self._hop :].copy()
            self._start += count * self._hop
        return events

    def finish(self) -> list[Classification]:
        """The end of the stream: the last window, where sound lies behind the others; once is enough."""
        if self._finished:
            return []
        self._finished = True
        rest = self._sound
        if self._covered >= self._taken or len(rest) < self._least:
            return []
        return list(self._classified(rest[None], [self._start]))

    def _classified(self, windows: np.ndarray, starts: list[int]) -> Iterator[Classification]:
        settings, labels = self.settings, self._classifier.labels
        for start, shares in zip(starts, self._classifier.probabilities(windows), strict=True):
            order = np.argsort(-shares, kind="stable")[: settings.top]
            if shares[order[0]] < settings.least_score:
                continue
            best = tuple(ClassShare(labels[int(n)], float(shares[n])) for n in order)
            yield Classification(best[0].label, best[0].score, start, start + windows.shape[1], best[1:])

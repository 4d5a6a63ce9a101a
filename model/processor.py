"""`WavLMProcessor`: recordings to the tensors a model takes, with the tokenizer of its CTC head beside it.

Files and arithmetic are those of transformers' `Wav2Vec2FeatureExtractor` and `Wav2Vec2Processor`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .errors import AudioError, CheckpointError, ConfigurationError
from .folders import Source, read_json, staged, write_json
from .tokenizer import CTCTokenizer, DecodedText

logger = logging.getLogger(__name__)

VARIANCE_FLOOR = 1e-7
"""Added to the variance under the root, as transformers does."""
LABEL_PADDING = -100
"""Fills short rows of labels; the CTC loss leaves it out."""


class Features(dict[str, Tensor]):
    """Tensors by name, also as attributes: `input_values`, and if asked for `attention_mask`, `labels`."""

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no {name!r} here; there is {', '.join(self) or 'nothing'}") from None

    def to(self, device: torch.device | str) -> Features:
        """The same tensors on another device."""
        return Features({k: v.to(device) for k, v in self.items()})


class WavLMProcessor:
    """Normalises, pads and batches recordings.

    Args:
        tokenizer: for labels and for decoding; None for a model without a CTC head.
        do_normalize: bring each recording to zero mean and unit variance (what large models were trained on).
        sampling_rate: samples a second that the model was trained on.
        padding_value: fills the end of short rows.
        return_attention_mask: give a mask unless a call says otherwise.

    Raises:
        ConfigurationError: a sampling rate that is no positive whole number, a padding value that is not finite.
    """

    def __init__(
        self,
        tokenizer: CTCTokenizer | None = None,
        *,
        do_normalize: bool = True,
        sampling_rate: int = 16000,
        padding_value: float = 0.0,
        return_attention_mask: bool = False,
    ):
        if type(sampling_rate) is not int or sampling_rate < 1:
            raise ConfigurationError(f"sampling_rate is {sampling_rate!r}, expected samples a second, such as 16000")
        if isinstance(padding_value, bool) or not np.isfinite(padding_value):
            raise ConfigurationError(f"padding_value is {padding_value!r}, expected a finite number")
        self.tokenizer = tokenizer
        self.do_normalize = bool(do_normalize)
        self.sampling_rate = sampling_rate
        self.padding_value = float(padding_value)
        self.return_attention_mask = bool(return_attention_mask)

    def __call__(
        self,
        audio: Any,
        sampling_rate: int | None = None,
        padding: bool | Literal["longest", "max_length", "do_not_pad"] = True,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        text: str | Sequence[str] | None = None,
        return_tensors: str = "pt",
    ) -> Features:
        """Make one batch.

        Each recording is normalised over its own samples (population variance), whatever it is batched with;
        transformers takes the padding into the statistics when it gives no attention mask.

        Args:
            audio: one mono recording `[samples]`, or several: a list of them or an array `[batch, samples]`;
                numbers with a fraction, in [-1, 1].
            sampling_rate: of these recordings; checked.
            padding: True or "longest" pads to the longest recording, "max_length" to `max_length`, False or
                "do_not_pad" not at all (all must then be equally long).
            max_length: samples.
            truncation: cut recordings longer than `max_length`.
            pad_to_multiple_of: round the padded length up to a multiple of so many samples.
            return_attention_mask: None means as the processor was made.
            text: transcripts, one a recording, encoded as `labels`.
            return_tensors: "pt"; other kinds are refused.

        Returns:
            `input_values` float32 `[batch, samples]`, `attention_mask` int64 `[batch, samples]` (1: a sample, 0:
            padding), `labels` int64 `[batch, tokens]` (short rows end in -100).

        Raises:
            AudioError: the wrong sampling rate, no samples, more than one channel, integers, samples that are not
                finite, unequal lengths without padding.
            ConfigurationError: options that contradict each other.
            TextError: a transcript that the tokenizer cannot write.
        """
        if return_tensors != "pt":
            raise ConfigurationError(f'return_tensors is {return_tensors!r}, only "pt" is supported')
        if sampling_rate is None:
            logger.warning("no sampling_rate given: taken to be %d; a wrong one cannot be noticed", self.sampling_rate)
        elif sampling_rate != self.sampling_rate:
            raise AudioError(
                f"audio at {sampling_rate} samples a second, but the model was trained at {self.sampling_rate}; "
                "resample it first"
            )
        limit = self._limit(padding, max_length, truncation, pad_to_multiple_of)
        rows = [self._row(i, row) for i, row in enumerate(_rows(audio))]
        if truncation:
            rows = [row[:limit] for row in rows]
        lengths = [len(row) for row in rows]
        width = max(lengths)
        if padding in (False, "do_not_pad"):
            if min(lengths) != width:
                raise AudioError(
                    f"recordings of {min(lengths)} to {width} samples need padding=True to become one tensor"
                )
        else:
            wanted = limit if padding == "max_length" and limit is not None else width
            width = max(width, _round_up(wanted, pad_to_multiple_of))
        values = np.full((len(rows), width), self.padding_value, dtype=np.float32)
        mask = torch.zeros(len(rows), width, dtype=torch.int64)
        for i, row in enumerate(rows):
            if self.do_normalize:
                row = (row - row.mean(dtype=np.float64)) / np.sqrt(row.var(dtype=np.float64) + VARIANCE_FLOOR)
            values[i, : len(row)] = row
            mask[i, : len(row)] = 1
        features = Features(input_values=torch.from_numpy(values))
        if self.return_attention_mask if return_attention_mask is None else return_attention_mask:
            features["attention_mask"] = mask
        if text is not None:
            features["labels"] = self.labels([text] if isinstance(text, str) else text)
            if len(features["labels"]) != len(rows):
                raise ConfigurationError(f"{len(rows)} recordings, but {len(features['labels'])} transcripts")
        return features

    @staticmethod
    def _limit(padding: Any, max_length: int | None, truncation: bool, multiple: int | None) -> int | None:
        """`max_length`, rounded up to the multiple asked for, after a look at the options."""
        if padding not in (True, False, "longest", "max_length", "do_not_pad"):
            raise ConfigurationError(
                f'padding is {padding!r}, expected True, False, "longest", "max_length" or "do_not_pad"'
            )
        for name, value in (("max_length", max_length), ("pad_to_multiple_of", multiple)):
            if value is not None and value < 1:
                raise ConfigurationError(f"{name} is {value}, expected at least one sample")
        if max_length is None and (truncation or padding == "max_length"):
            raise ConfigurationError("truncation and padding to the maximum length need max_length, in samples")
        return None if max_length is None else _round_up(max_length, multiple)

    @staticmethod
    def _row(index: int, row: Any) -> np.ndarray:
        """One recording as a float32 array, after a look at it."""
        where = f"recording {index}"
        if isinstance(row, Tensor):
            row = row.detach().cpu()
            row = row.float() if row.is_floating_point() else row  # numpy knows no bfloat16
        try:
            array = np.asarray(row)
        except ValueError as e:
            raise AudioError(f"{where} is no list of samples: {e}") from e
        if array.ndim != 1:
            raise AudioError(
                f"{where} has the shape {list(array.shape)}, expected [samples]: mix it down to mono first"
            )
        if not array.size:
            raise AudioError(f"{where} has no samples")
        if not np.issubdtype(array.dtype, np.floating):
            raise AudioError(
                f"{where} holds {array.dtype} values, expected fractions in [-1, 1]; divide 16-bit samples by 32768"
            )
        with np.errstate(over="ignore"):
            array = array.astype(np.float32, copy=False)
        bad = array.size - int(np.isfinite(array).sum())
        if bad:
            raise AudioError(f"{where} has {bad} samples that are not finite (of {array.size}); clean it first")
        return array

    # Text -----------------------------------------------------------------------------------------------

    def labels(self, texts: Iterable[str]) -> Tensor:
        """Transcripts as int64 `[batch, tokens]`; short rows end in -100, which the CTC loss leaves out."""
        ids = [self._text_side().encode(t) for t in texts]
        rows = torch.full((len(ids), max(map(len, ids), default=0)), LABEL_PADDING, dtype=torch.int64)
        for row, values in zip(rows, ids, strict=True):
            row[: len(values)] = torch.tensor(values, dtype=torch.int64)
        return rows

    def decode(self, ids: Iterable[int], **options: bool) -> str:
        """As `CTCTokenizer.decode`."""
        return self._text_side().decode(ids, **options)

    def decode_with_offsets(self, ids: Iterable[int], **options: bool) -> DecodedText:
        """As `CTCTokenizer.decode_with_offsets`."""
        return self._text_side().decode_with_offsets(ids, **options)

    def batch_decode(self, ids: Iterable[Iterable[int]], **options: bool) -> list[str]:
        """As `CTCTokenizer.batch_decode`."""
        return self._text_side().batch_decode(ids, **options)

    def _text_side(self) -> CTCTokenizer:
        if self.tokenizer is None:
            raise ConfigurationError("this processor has no tokenizer: its checkpoint came without a vocab.json")
        return self.tokenizer

    # Files ----------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike[str], *, revision: str | None = None) -> WavLMProcessor:
        """Read `preprocessor_config.json` or `processor_config.json`, and the tokenizer if there is a `vocab.json`.

        Raises:
            CheckpointError: no such files, unreadable ones, or the processor of another kind of model.
        """
        source = Source(name_or_path, revision)
        values = feature_settings(source) or source.fail("preprocessor_config.json")
        tokenizer = CTCTokenizer.from_pretrained(name_or_path, revision=revision) if source.find("vocab.json") else None
        names = ("do_normalize", "sampling_rate", "padding_value", "return_attention_mask")
        try:
            return cls(tokenizer, **{k: values[k] for k in names if values.get(k) is not None})
        except ConfigurationError as e:
            raise CheckpointError(f"the processor settings of {source} cannot be used: {e}") from e

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write `preprocessor_config.json`, and with a tokenizer its files and `processor_config.json`.

        Raises:
            CheckpointError: the folder cannot be written; nothing is half-written.
        """
        values = {
            "do_normalize": self.do_normalize,
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
            "feature_size": 1,
            "padding_side": "right",
            "padding_value": self.padding_value,
            "return_attention_mask": self.return_attention_mask,
            "sampling_rate": self.sampling_rate,
        }
        with staged(folder) as stage:
            if self.tokenizer is not None:
                self.tokenizer.save_pretrained(stage)
                joint = {"feature_extractor": values, "processor_class": "Wav2Vec2Processor"}
                write_json(stage / "processor_config.json", joint)
                values = {**values, "processor_class": "Wav2Vec2Processor"}
            write_json(stage / "preprocessor_config.json", values)


def feature_settings(source: Source) -> Mapping[str, Any] | None:
    """What a checkpoint says about its input: the object written by transformers; None if it says nothing.

    Raises:
        CheckpointError: settings of another kind of model, or such as this one cannot follow.
    """
    path = source.find("processor_config.json")
    values = read_json(path).get("feature_extractor") if path else None  # written by transformers from version 5
    if not isinstance(values, dict):
        path = source.find("preprocessor_config.json")
        if path is None:
            return None
        values = read_json(path)
    kind = values.get("feature_extractor_type") or "Wav2Vec2FeatureExtractor"
    if kind != "Wav2Vec2FeatureExtractor":
        raise CheckpointError(f"{path} describes a {kind!r}, expected 'Wav2Vec2FeatureExtractor'")
    for name, expected in (("feature_size", 1), ("padding_side", "right")):
        if values.get(name, expected) != expected:
            raise CheckpointError(f"{path}: {name} is {values[name]!r}, a WavLM takes {expected!r}")
    return values


def _rows(audio: Any) -> list[Any]:
    """The recordings of a batch; one alone becomes a batch of one."""
    if isinstance(audio, (np.ndarray, Tensor)):
        if audio.ndim == 1:
            return [audio]
        if audio.ndim == 2 and 0 < audio.shape[0] <= audio.shape[1]:
            return list(audio)
        raise AudioError(
            f"audio has the shape {list(audio.shape)}, expected [samples] or [batch, samples]; mix several channels "
            "down to mono first"
        )
    if not isinstance(audio, (list, tuple)):
        raise AudioError(f"audio is a {type(audio).__name__}, expected an array of samples or a list of such arrays")
    if not audio:
        raise AudioError("no recordings were given")
    single = all(isinstance(v, (int, float, np.number)) for v in audio[:2])
    return [audio] if single else list(audio)


def _round_up(samples: int, multiple: int | None) -> int:
    return samples if not multiple else -(-samples // multiple) * multiple

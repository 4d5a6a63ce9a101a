"""Which phone is said in every frame: transcripts aligned to their sound by pocketsphinx and its own dictionary.

The 39 phones of the CMU dictionary and silence. A network that names them beside its letters is told where in the
sound things are said, which CTC has to find out.
"""

from __future__ import annotations

import functools
import logging
import multiprocessing
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

from ..errors import ConfigurationError
from .cache import SoundCache
from .frame_labels import FrameLabels
from .manifest import HOP, WINDOW, Utterance, frames_of

log = logging.getLogger(__name__)

SILENCE = "SIL"
PHONES: tuple[str, ...] = (
    SILENCE,
    *("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"),
    *("B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG", "P", "R", "S", "SH", "T", "TH"),
    *("V", "W", "Y", "Z", "ZH"),
)
"""Phone of each label."""
_NUMBER = {name: i for i, name in enumerate(PHONES)}

_ALIGNER_HOP, _ALIGNER_WINDOW = 160, 410
"""Samples from one frame of the aligner to the next, and in one."""
_EDGE_SAMPLES = 4000
_BEAMS: tuple[dict[str, float], ...] = ({}, {"beam": 1e-100, "wbeam": 1e-100, "pbeam": 1e-100})
"""What the aligner gives up: first its own choice, then hardly anything."""

Piece = tuple[str, int, int]
"""A phone, its first frame of the aligner, and how many it has."""


class Aligner:
    """Finds phones in recordings whose words are known.

    Raises:
        ConfigurationError: pocketsphinx is not installed.
    """

    def __init__(self) -> None:
        try:
            from pocketsphinx import Decoder
        except ImportError as e:
            raise ConfigurationError("pocketsphinx aligns and is not installed: pip install 'wavlm-live[align]'") from e
        self._decoders: list[Any] = [Decoder(lm=None, loglevel="FATAL", cmn="batch", **beams) for beams in _BEAMS]

    def unknown(self, text: str) -> list[str]:
        """Words of a normalised text that the dictionary does not have."""
        return [word for word in text.split() if self._decoders[0].lookup_word(word) is None]

    def align(self, sound: np.ndarray, text: str) -> np.ndarray | None:
        """Labels of the frames of one recording.

        Args:
            sound: int16 [samples] at 16 kHz.
            text: normalised words, all of them in the dictionary.

        Returns:
            uint16 [frames], numbers of `PHONES`; None: no alignment was found, as where the text is another's.
        """
        edge = np.random.default_rng(0).normal(0, 3, _EDGE_SAMPLES).astype(np.int16)
        padded = np.concatenate([edge, sound, edge[::-1]])
        # A word cut off at the edge is what fails most; some near-silence beside it helps.
        tries = ((0, sound, 0), (0, padded, _EDGE_SAMPLES), (1, padded, _EDGE_SAMPLES))
        for number, heard, ahead in tries:
            try:
                pieces = self._pieces(self._decoders[number], heard, text)
            except RuntimeError:
                continue
            return labels_of(pieces, frames_of(len(sound)), ahead)
        return None

    @staticmethod
    def _pieces(decoder: Any, sound: np.ndarray, text: str) -> list[Piece]:
        # nothing is left of the recordings before: labels are the same whatever the order
        decoder.reinit_feat()
        decoder.set_align_text(text)
        for again in (False, True):  # words first, then phones within them
            if again:
                decoder.set_alignment()
            decoder.start_utt()
            decoder.process_raw(sound.tobytes(), full_utt=True)
            decoder.end_utt()
        return [(p.name, p.start, p.duration) for p in decoder.get_alignment().phones()]


def labels_of(pieces: Sequence[Piece], frames: int, ahead_samples: int = 0) -> np.ndarray:
    """Labels of the encoder's frames from phones in the aligner's.

    Args:
        pieces: phones in order; what is no phone of `PHONES` (noise, breath) counts as silence.
        frames: of the encoder.
        ahead_samples: what the aligner heard before the recording.

    Returns:
        uint16 [frames]: the phone at the middle of each frame; silence beyond the last.
    """
    names = np.concatenate([np.full(count, _NUMBER.get(name, 0), np.uint16) for name, _, count in pieces] or [[]])
    middles = np.arange(frames) * HOP + WINDOW // 2 + ahead_samples - _ALIGNER_WINDOW // 2
    moments = np.rint(middles / _ALIGNER_HOP).astype(np.int64)
    result = np.zeros(frames, np.uint16)
    known = (moments >= 0) & (moments < len(names))
    result[known] = names[moments[known]]
    return result


@functools.cache
def _aligner() -> Aligner:
    """The aligner of this process: its model is loaded once."""
    return Aligner()


def _align_some(folder: str, part: list[tuple[str, str]]) -> list[tuple[str, np.ndarray | str]]:
    """Labels, or why there are none, of some recordings of a cache; in a process of its own."""
    cache, aligner = SoundCache(folder), _aligner()
    results: list[tuple[str, np.ndarray | str]] = []
    for key, text in part:
        if unknown := aligner.unknown(text):
            results.append((key, f"a word is not in the dictionary (such as {unknown[0]!r})"))
            continue
        labels = aligner.align(np.array(cache[key]), text)
        results.append((key, labels if labels is not None else "sound and text do not fit together"))
    return results


def align_all(utterances: Sequence[Utterance], cache: SoundCache, *, workers: int = 2) -> FrameLabels:
    """Phones of every frame of every recording that can be aligned; the others are counted with their reason.

    Raises:
        ConfigurationError: pocketsphinx is not installed.
        ConfigurationError: nothing could be aligned.
    """
    Aligner()  # what is missing is said here, not by a worker
    items = [(u.file, u.text) for u in utterances]
    parts = [items[i : i + 100] for i in range(0, len(items), 100)]
    labels: dict[str, np.ndarray] = {}
    refused: Counter[str] = Counter()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max(1, workers), mp_context=context) as pool:
        for found in pool.map(_align_some, [str(cache.folder)] * len(parts), parts):
            for key, value in found:
                if isinstance(value, str):
                    refused[value.split(" (")[0]] += 1
                else:
                    labels[key] = value
    for reason, count in refused.most_common():
        log.info("%d recordings have no alignment: %s", count, reason)
    if not labels:
        raise ConfigurationError("no recording could be aligned; expected English texts that fit their sound")
    log.info("phones of %d of %d recordings", len(labels), len(items))
    return FrameLabels(len(PHONES), labels)

"""`DecodingSettings`: how a session turns frames into text, and `make_decoder`, which builds the decoder for it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, Protocol, get_args

import numpy as np

from ..model.errors import ConfigurationError
from .alphabet import Alphabet
from .beam import BeamDecoder
from .confidence import Calibration
from .decoding_defaults import GENERAL, RANGES, DecodingDefaults
from .events import Candidate, Word
from .fusion import Fusion, Weights
from .greedy import GreedyDecoder
from .hotwords import Hotwords
from .language_model import LanguageModel, load_language_model
from .prefix_search import BeamRules
from .stability import StabilityRule

Method = Literal["greedy", "beam"]


class Decoder(Protocol):
    """What a segmenter asks of a decoder; see `GreedyDecoder` for the words of each."""

    alphabet: Alphabet
    hop_samples: int

    @property
    def frames(self) -> int: ...
    @property
    def complete(self) -> tuple[Word, ...]: ...
    @property
    def words(self) -> tuple[Word, ...]: ...
    @property
    def contested_samples(self) -> int: ...
    @property
    def candidates(self) -> tuple[Candidate, ...]: ...
    def accept(self, logprobs: np.ndarray) -> None: ...
    def peek(self, logprobs: np.ndarray) -> tuple[Word, ...]: ...
    def fork(self) -> Decoder: ...
    def take(self) -> tuple[Word, ...]: ...
    def reset(self) -> None: ...


@dataclass(frozen=True)
class DecodingSettings:
    """How frames become text.

    Raises:
        ConfigurationError: a value that cannot work; the message names the field.
    """

    method: Method = "greedy"
    """`greedy`: the best output of each frame. `beam`: the best text, with a language model and hotwords."""
    beam_width: int = 16
    """Texts that the beam keeps."""
    token_cutoff: float | None = None
    """Outputs so much less likely than a frame's best are not looked at; natural logarithm. None, here and below: what
    suits the model, as its `decoding.json` says, else `decoding_defaults.GENERAL`."""
    beam_cutoff: float | None = None
    """Texts so much worse than the best are dropped; natural logarithm."""
    blank_skip: float = 0.99
    """A frame whose blank is more probable than this changes no text; 1: every frame is read."""
    lm_path: str | None = None
    """Language model: an ARPA file, a packed file or a binary of KenLM, of words or of characters; or the name of one
    that comes with the package: `english`."""
    lm_weight: float | None = None
    """Factor of the language model's logarithms."""
    word_score: float | None = None
    """Bonus of each word where there is a language model; natural logarithm."""
    unknown_penalty: float | None = None
    """Price of a word outside the language model's vocabulary; natural logarithm. Hotwords do not pay it."""
    prior_weight: float | None = None
    """How far a beam takes back that some letters, and the blank, are frequent: each output's probability is divided by
    its mean to this power. Only for a model whose `decoding.json` has a `prior`."""
    carry_context: bool = False
    """The language model goes on from segment to segment, instead of beginning a sentence with each."""
    hotwords: tuple[tuple[str, float], ...] = ()
    """Phrases, each with its boost: a natural-log bonus for every letter."""
    stability: float = 0.5
    """From 0, words are called stable at once and may be wrong, to 1, when nothing speaks against them any more."""
    looks: int = 2
    """So many looks at the frames must agree in a row before text that is not stable is shown or changed, 1 or 2; looks
    that are more than 0.3 s apart need not."""
    details: bool = False
    """Words carry their letters with times and, from a beam, what else they may be; finals carry the best texts."""
    confidence_temperature: float | None = None
    """Above 1, the rivals in a beam count for more in confidences."""
    confidence_scale: float | None = None
    """Factor of the logarithm of a confidence's odds, learned on recordings with known text; see `Calibration`."""
    confidence_shift: float | None = None
    """Added to it."""
    confidence_letters: float | None = None
    """With a beam: factor of the logarithm of the odds of the word's letters."""

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            self._refuse("method", "greedy or beam")
        if type(self.beam_width) is not int or not 1 <= self.beam_width <= 1000:
            self._refuse("beam_width", "a whole number from 1 to 1000")
        if type(self.looks) is not int or self.looks not in (1, 2):
            self._refuse("looks", "1 or 2")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is None and name in GENERAL:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                self._refuse(name, f"a number from {low:g}" + (f" to {high:g}" if math.isfinite(high) else ""))
        if self.blank_skip == 0:
            self._refuse("blank_skip", "a number above 0")
        if not (self.lm_path is None or (isinstance(self.lm_path, str) and self.lm_path)):
            self._refuse("lm_path", "the path of a file, or None")
        for name in ("carry_context", "details"):
            if type(getattr(self, name)) is not bool:
                self._refuse(name, "True or False")
        self._check_hotwords()
        if self.method == "greedy":
            for name in ("lm_path", "hotwords"):
                if getattr(self, name):
                    self._refuse(name, 'nothing with method "greedy"; choose method "beam"')

    def _check_hotwords(self) -> None:
        pairs = isinstance(self.hotwords, tuple) and all(
            isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) for pair in self.hotwords
        )
        if not pairs:
            self._refuse("hotwords", "a tuple of (phrase, boost)")
        try:
            Hotwords(self.hotwords)
        except ConfigurationError as e:
            raise ConfigurationError(f"DecodingSettings.hotwords: {e}") from e

    @property
    def section(self) -> str:
        """Which defaults concern these settings; one of `decoding_defaults.SECTIONS`."""
        return "greedy" if self.method == "greedy" else "beam" if self.lm_path is None else "language_model"

    def filled(self, defaults: DecodingDefaults | None = None) -> DecodingSettings:
        """The same with a number where there was None.

        Args:
            defaults: of the model; None: the general ones.
        """
        numbers = (defaults or DecodingDefaults()).get(self.section)
        return replace(self, **{name: value for name, value in numbers.items() if getattr(self, name) is None})

    def _refuse(self, name: str, expected: str) -> None:
        raise ConfigurationError(f"DecodingSettings.{name} is {getattr(self, name)!r}, expected {expected}")


_RANGES = {**RANGES, "blank_skip": (0.0, 1.0), "stability": (0.0, 1.0)}


def make_decoder(
    alphabet: Alphabet,
    settings: DecodingSettings | None = None,
    hop_samples: int = 320,
    language_model: LanguageModel | None = None,
) -> GreedyDecoder | BeamDecoder:
    """A fresh decoder for one stream.

    Args:
        alphabet: of the model's outputs.
        settings: how to decode; None: greedily. Numbers that are None are the general ones.
        hop_samples: samples from one frame to the next.
        language_model: one that is loaded already; None: the one at `lm_path`, which is loaded once for all streams.

    Raises:
        ConfigurationError: a language model that cannot be read, hotwords that the alphabet cannot write, or a
            weight of its prior where it has none.
    """
    settings = (settings or DecodingSettings()).filled()
    numbers = {name: getattr(settings, name) for name in GENERAL}
    calibration = Calibration(numbers["confidence_scale"], numbers["confidence_shift"], numbers["confidence_letters"])
    if settings.method == "greedy":
        return GreedyDecoder(alphabet, hop_samples, calibration, settings.details)
    check_prior(alphabet, settings)
    if language_model is None and settings.lm_path is not None:
        language_model = load_language_model(settings.lm_path)
    fusion = Fusion(
        language_model,
        Weights(numbers["lm_weight"], numbers["word_score"], numbers["unknown_penalty"]),
        hotwords_for(alphabet, settings.hotwords),
    )
    rules = BeamRules(
        settings.beam_width,
        numbers["token_cutoff"],
        numbers["beam_cutoff"],
        settings.blank_skip,
        numbers["confidence_temperature"],
        settings.carry_context,
        numbers["prior_weight"],
    )
    return BeamDecoder(
        alphabet, hop_samples, rules, fusion, StabilityRule.of(settings.stability), calibration, settings.details
    )


def check_prior(alphabet: Alphabet, settings: DecodingSettings) -> None:
    """Refuse a weight for a prior that the model does not have.

    Raises:
        ConfigurationError: that is so.
    """
    if settings.method == "beam" and settings.prior_weight and not alphabet.prior:
        raise ConfigurationError(
            f"DecodingSettings.prior_weight is {settings.prior_weight:g}, but the model's decoding.json has no prior; "
            "leave it, or measure the prior with benchmarks/tune_decoding.py --write"
        )


def hotwords_for(alphabet: Alphabet, phrases: tuple[tuple[str, float], ...]) -> Hotwords:
    """Hotwords that an alphabet can write.

    Raises:
        ConfigurationError: a phrase has a character that no output writes, or more than one word where the alphabet
            has no delimiter.
    """
    hotwords = Hotwords(phrases)
    written = set("".join(alphabet.labels).lower())
    for text, _ in hotwords.phrases:
        lost = sorted(set(text) - written - {" "})
        if lost:
            raise ConfigurationError(
                f"hotword {text!r} has {', '.join(map(repr, lost))}, which this model never writes; it writes "
                f"{''.join(sorted(written))}"
            )
        if " " in text and alphabet.delimiter_id is None:
            raise ConfigurationError(f"hotword {text!r} has two words, but this model writes no borders between words")
    return hotwords

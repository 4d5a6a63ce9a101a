"""Options about decoding that `transcribe` and `listen` share, and the settings that they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from .options import UsageError, _option

if TYPE_CHECKING:
    from .decoding import DecodingSettings

_DECODING, _FINE = "Decoding", "Decoding, in detail"

Beam = Annotated[
    int | None,
    _option(
        "--beam",
        panel=_DECODING,
        min=0,
        max=1000,
        metavar="N",
        show_default=False,
        help="Texts that beam search keeps; 0 for greedy decoding. Default: 16 with --lm or --hotword, else 0.",
    ),
]
Lm = Annotated[
    Path | None,
    _option(
        "--lm",
        panel=_DECODING,
        metavar="NAME|FILE",
        show_default=False,
        help="Language model: english, which comes with the package, or an ARPA file, packed file or KenLM binary.",
    ),
]
_SUITS = "Default: what suits the model."
LmWeight = Annotated[
    float | None,
    _option("--lm-weight", panel=_DECODING, min=0, max=10, show_default=False, help=f"How much --lm counts. {_SUITS}"),
]
WordScore = Annotated[
    float | None,
    _option(
        "--word-score",
        panel=_DECODING,
        min=-20,
        max=20,
        show_default=False,
        help=f"Bonus of each word, with --lm. {_SUITS}",
    ),
]
UnknownPenalty = Annotated[
    float | None,
    _option(
        "--unknown-penalty",
        panel=_DECODING,
        min=0,
        max=100,
        show_default=False,
        help=f"Price of a word unknown to --lm. {_SUITS}",
    ),
]
PriorWeight = Annotated[
    float | None,
    _option(
        "--prior-weight",
        panel=_FINE,
        min=0,
        max=2,
        metavar="A",
        show_default=False,
        help=f"With a beam: how far it is taken back that some letters are frequent. {_SUITS}",
    ),
]
Hotword = Annotated[
    list[str] | None,
    _option(
        "--hotword",
        panel=_DECODING,
        metavar="PHRASE[:BOOST]",
        show_default=False,
        help="A phrase to expect, again for more; the boost is a bonus for each letter, 1.5 if not given.",
    ),
]
Stability = Annotated[
    float,
    _option(
        "--stability",
        panel=_DECODING,
        min=0,
        max=1,
        metavar="0..1",
        help="With a beam: from 0, words are stable at once, to 1, when nothing speaks against them any more.",
    ),
]
Details = Annotated[
    bool,
    _option(
        "--details",
        panel=_DECODING,
        help="In json and jsonl: times of letters; with a beam what else a word may be, and the best texts.",
    ),
]
Looks = Annotated[
    int,
    _option(
        "--looks",
        panel=_DECODING,
        min=1,
        max=2,
        metavar="1|2",
        help="So many looks in a row must agree before text that is not stable is shown or changed.",
    ),
]
TokenCutoff = Annotated[
    float | None,
    _option(
        "--token-cutoff",
        panel=_FINE,
        min=0,
        metavar="LN",
        show_default=False,
        help=f"Letters so much less likely than a frame's best are not looked at. {_SUITS}",
    ),
]
BeamCutoff = Annotated[
    float | None,
    _option(
        "--beam-cutoff",
        panel=_FINE,
        min=0,
        metavar="LN",
        show_default=False,
        help=f"Texts so much worse than the best are dropped. {_SUITS}",
    ),
]
BlankSkip = Annotated[
    float,
    _option(
        "--blank-skip",
        panel=_FINE,
        min=0.001,
        max=1,
        metavar="0..1",
        help="A frame whose blank is more probable changes no text; 1: every frame is read.",
    ),
]
CarryContext = Annotated[
    bool,
    _option("--carry-context", panel=_FINE, help="The language model goes on from segment to segment."),
]
ConfidenceTemperature = Annotated[
    float | None,
    _option(
        "--confidence-temperature",
        panel=_FINE,
        min=0.001,
        max=100,
        metavar="T",
        show_default=False,
        help=f"Above 1, rivals in a beam count for more in confidences. {_SUITS}",
    ),
]
ConfidenceScale = Annotated[
    float | None,
    _option(
        "--confidence-scale",
        panel=_FINE,
        min=0,
        max=100,
        metavar="A",
        show_default=False,
        help=f"Factor of the logarithm of a confidence's odds. {_SUITS}",
    ),
]
ConfidenceShift = Annotated[
    float | None,
    _option(
        "--confidence-shift",
        panel=_FINE,
        min=-20,
        max=20,
        metavar="B",
        show_default=False,
        help=f"Added to it. {_SUITS}",
    ),
]
ConfidenceLetters = Annotated[
    float | None,
    _option(
        "--confidence-letters",
        panel=_FINE,
        min=0,
        max=100,
        metavar="C",
        show_default=False,
        help=f"With a beam: factor of the logarithm of the odds of the word's letters. {_SUITS}",
    ),
]


@dataclass(frozen=True)
class Decoding:
    """How frames become text, as the command line gave it: fields are named like parameters."""

    beam: int | None = None
    lm: Path | None = None
    lm_weight: float | None = None
    word_score: float | None = None
    unknown_penalty: float | None = None
    prior_weight: float | None = None
    hotword: list[str] | None = None
    stability: float = 0.5
    looks: int = 2
    details: bool = False
    token_cutoff: float | None = None
    beam_cutoff: float | None = None
    blank_skip: float = 0.99
    carry_context: bool = False
    confidence_temperature: float | None = None
    confidence_scale: float | None = None
    confidence_shift: float | None = None
    confidence_letters: float | None = None

    @classmethod
    def among(cls, parameters: Mapping[str, Any]) -> Decoding:
        """Those of a command's parameters, `locals()` at its start, that are fields here."""
        return cls(**{field.name: parameters[field.name] for field in fields(cls)})

    def settings(self) -> DecodingSettings:
        """The same for a session.

        Raises:
            ConfigurationError: values that do not go together, or a hotword that is none.
        """
        from .decoding import DecodingSettings
        from .hotwords import parse_hotword

        if self.beam == 0 and (self.lm or self.hotword):
            name = "--lm" if self.lm else "--hotword"
            raise UsageError(f"--beam 0 has no use for {name}; give --beam 16, or leave it")
        hotwords = tuple(parse_hotword(text) for text in self.hotword or ())
        beam = self.beam if self.beam is not None else 16 * bool(self.lm or hotwords)
        method: dict[str, Any] = {}
        if beam:
            lm_path = None if self.lm is None else str(self.lm)
            method = {"method": "beam", "beam_width": beam, "lm_path": lm_path, "hotwords": hotwords}
        same = (f.name for f in fields(self) if f.name not in ("beam", "lm", "hotword"))
        return DecodingSettings(**method, **{name: getattr(self, name) for name in same})

"""Cuts segments into captions that can be read on a screen: short lines, short stays, breaks between words."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from .events import SAMPLE_RATE, Final, Word

LINE_CHARACTERS = 42
LINES = 2
LONGEST_S = 7.0
"""A caption with more words than one ends before it stays longer than this."""

SHORTEST_S = 1.0
"""A caption stays at least so long where the next one leaves room."""

PAUSE_S = 1.5
"""After a pause of this length a new caption begins, so that none hangs over silence."""


@dataclass(frozen=True)
class Cue:
    """One caption."""

    start_samples: int
    end_samples: int
    lines: tuple[str, ...]
    speaker: str = ""
    """Who says it, where that is known; a caption is of one speaker."""


def clean_text(text: str) -> str:
    """Text on one line without control characters: tabs and line breaks become a space, the others vanish."""
    kept = (" " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c) not in ("Cc", "Cs"))
    return " ".join("".join(kept).split())


def clean_final(final: Final) -> Final:
    """The same segment with `clean_text` applied to its text and words; words that were nothing else vanish."""
    words = tuple(_clean_word(word, text) for word in final.words if (text := clean_text(word.text)))
    candidates = tuple(replace(c, text=clean_text(c.text)) for c in final.candidates)
    return replace(final, text=clean_text(final.text), words=words, candidates=candidates)


def _clean_word(word: Word, text: str) -> Word:
    letters = tuple(replace(letter, text=clean_text(letter.text)) for letter in word.letters)
    alternatives = tuple(replace(choice, text=clean_text(choice.text)) for choice in word.alternatives)
    return replace(word, text=text, letters=letters, alternatives=alternatives)


def cues_of(final: Final, *, named: bool = False) -> list[Cue]:
    """The captions of a segment, in order and without overlap; none if it holds no text.

    Args:
        final: the segment.
        named: the lines begin with the speaker's name and a colon, where he is known.

    Each has at most 2 lines of 42 characters and, unless a single word takes longer, at most 7 seconds. A segment
    whose words carry no times gets them in proportion to their letters.
    """
    final = clean_final(final)
    spoken = with_speakers(final.words)
    words = [piece for word in spoken or _timed_by_length(final) for piece in _pieces(word)]
    groups: list[list[Word]] = []
    for word in words:
        if groups and _fits(groups[-1], word, named):
            groups[-1].append(word)
        else:
            groups.append([word])
    cues = []
    for i, group in enumerate(groups):
        start, end = group[0].start_samples, group[-1].end_samples
        room_until = groups[i + 1][0].start_samples if i + 1 < len(groups) else final.end_samples
        end = max(end, min(start + round(SHORTEST_S * SAMPLE_RATE), room_until))
        cues.append(Cue(start, end, _layout(_texts(group, named)) or (), group[0].speaker))
    return cues


def with_speakers(words: Sequence[Word]) -> list[Word]:
    """The words, each of whom nobody knows who said it given to whoever said the one before, or the first after."""
    found: list[Word] = []
    speaker = next((word.speaker for word in words if word.speaker), "")
    for word in words:
        speaker = word.speaker or speaker
        found.append(replace(word, speaker=speaker))
    return found


def _texts(words: Sequence[Word], named: bool) -> list[str]:
    name = [f"{_short(words[0].speaker)}:"] if named and words[0].speaker else []
    return [*name, *(word.text for word in words)]


def _short(name: str) -> str:
    """A name that leaves room beside it."""
    name = clean_text(name)
    return name if len(name) <= LINE_CHARACTERS // 2 else name[: LINE_CHARACTERS // 2 - 1] + "…"


def _fits(group: Sequence[Word], word: Word, named: bool) -> bool:
    """Whether the word may join the caption."""
    return (
        word.speaker == group[0].speaker
        and word.end_samples - group[0].start_samples <= LONGEST_S * SAMPLE_RATE
        and word.start_samples - group[-1].end_samples <= PAUSE_S * SAMPLE_RATE
        and _layout(_texts((*group, word), named)) is not None
    )


def _layout(texts: Sequence[str]) -> tuple[str, ...] | None:
    """One line, or two of about equal length; None if the words need more."""
    whole = " ".join(texts)
    if len(whole) <= LINE_CHARACTERS:
        return (whole,)
    pairs = [(" ".join(texts[:i]), " ".join(texts[i:])) for i in range(1, len(texts))]
    pairs = [pair for pair in pairs if max(map(len, pair)) <= LINE_CHARACTERS]
    return min(pairs, key=lambda pair: abs(len(pair[0]) - len(pair[1]))) if pairs else None


def _timed_by_length(final: Final) -> list[Word]:
    """Words of a segment without word times: each takes the share of the time that its letters have."""
    texts = final.text.split()
    letters = sum(map(len, texts))
    words = []
    passed = 0
    for text in texts:
        span = final.end_samples - final.start_samples
        start = final.start_samples + span * passed // letters
        passed += len(text)
        words.append(Word(text, start, final.start_samples + span * passed // letters, 0.0))
    return words


def _pieces(word: Word) -> list[Word]:
    """The word, or parts of it that fit a line."""
    parts = [word.text[i : i + LINE_CHARACTERS] for i in range(0, len(word.text), LINE_CHARACTERS)]
    if len(parts) == 1:
        return [word]
    span = word.end_samples - word.start_samples
    ends = [word.start_samples + span * (i + 1) // len(parts) for i in range(len(parts))]
    starts = [word.start_samples, *ends[:-1]]
    return [replace(word, text=p, start_samples=s, end_samples=e) for p, s, e in zip(parts, starts, ends, strict=True)]

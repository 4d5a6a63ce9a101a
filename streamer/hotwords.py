"""`Hotwords`: phrases that a session expects, as bonuses for spelling them out.

A trie over the characters of all phrases, with failure links as in Aho and Corasick 1975. Phrases begin and end at
the borders of words, so "ann" says nothing about "banana", and a failure leads only to a part of the text that
begins with a word: "new york" is left in favour of "york minster".

A phrase is paid for letter by letter, so that the beam keeps it from its first letter on. The credit is taken back
where the text leaves the phrase, and is kept once the phrase is complete.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from ..model.errors import ConfigurationError

DEFAULT_BOOST = 1.5
"""Natural-log bonus for each letter of a phrase, if none is given: the odds of each letter rise 4.5 times."""
LARGEST_BOOST = 20.0
BORDER = " "
"""Stands between words, in phrases and for `Hotwords.step`."""


class Node:
    """A place in a phrase. Immutable once the phrases are built."""

    __slots__ = ("banked", "credit", "fail", "most", "next", "pending")

    def __init__(self, credit: float) -> None:
        self.next: dict[str, Node] = {}
        self.fail: Node | None = None
        """The longest ending of this text that begins with a word and is in the trie; None inside a word that
        has none."""
        self.credit = credit
        """Bonus of all letters from the root to here."""
        self.pending = 0.0
        """The part of it that is taken back when the phrase is left."""
        self.banked = 0.0
        """Bonus of the phrases that are complete here, kept from now on."""
        self.most = 1.0
        """`exp` of the largest bonus of a letter that follows, and no less than 1."""


class Hotwords:
    """A set of phrases with boosts; sessions that have the same phrases may share it, since it never changes.

    Args:
        phrases: text and boost of each phrase; the boost is a natural-log bonus for each of its letters, borders
            not counted. Case does not matter. Where phrases share a beginning, the higher boost counts there.

    Raises:
        ConfigurationError: an empty phrase, or a boost that is no number above 0 and up to 20.
    """

    def __init__(self, phrases: Iterable[tuple[str, float]] = ()) -> None:
        self.phrases = tuple((" ".join(text.lower().split()), boost) for text, boost in phrases)
        self.root = Node(0.0)
        self._outside = Node(0.0)  # in a word that belongs to no phrase
        for text, boost in self.phrases:
            check_phrase(text, boost)
        boosts: dict[str, float] = {}  # the highest boost of the phrases that begin so
        for text, boost in self.phrases:
            for end in range(1, len(text) + 1):
                boosts[text[:end]] = max(boosts.get(text[:end], 0.0), boost)
        for text, _ in self.phrases:
            self._add(text, boosts)
        self._link()
        self._bound(self.root)

    def __bool__(self) -> bool:
        return bool(self.phrases)

    @property
    def characters(self) -> frozenset[str]:
        """All characters of the phrases but the border."""
        return frozenset("".join(text for text, _ in self.phrases)) - {BORDER}

    def step(self, node: Node, characters: str) -> tuple[float, Node]:
        """Read on.

        Args:
            node: where the reading stands; `root` at the beginning of a text, which is one of a word.
            characters: lower-case letters, or `BORDER`.

        Returns:
            The bonus of these characters, negative where credit is taken back, and where the reading stands then.
        """
        bonus = 0.0
        for character in characters:
            target = self._follow(node, character)
            bonus += target.banked + target.pending - node.pending
            node = target
        return bonus, node

    def spells(self, node: Node) -> bool:
        """Whether the open word, if there is one, begins like a word of a phrase at its place in it."""
        return node is not self._outside

    def ends_word(self, node: Node) -> bool:
        """Whether the open word is a whole word of a phrase at its place in it."""
        place: Node | None = node
        while place is not None and BORDER not in place.next:
            place = place.fail
        return place is not None

    def _follow(self, node: Node, character: str) -> Node:
        place: Node | None = node
        while place is not None:
            if (target := place.next.get(character)) is not None:
                return target
            place = place.fail
        return self.root if character == BORDER else self._outside

    def _add(self, text: str, boosts: dict[str, float]) -> None:
        node = self.root
        for end, character in enumerate(text, start=1):
            if character not in node.next:
                node.next[character] = Node(node.credit + (character != BORDER) * boosts[text[:end]])
            node = node.next[character]
        # The phrase is complete only when its last word is: "ann" is not in "annual".
        end_node = node.next.setdefault(BORDER, Node(node.credit))
        end_node.banked = end_node.credit

    def _link(self) -> None:
        """Failure links and what is pending, shorter texts first."""
        level = [(self.root, "", 0.0)]
        while level:
            below: list[tuple[Node, str, float]] = []
            for node, text, kept in level:
                # `kept`: credit of the longest complete phrase that this text begins with
                if node.banked:
                    node.banked -= kept
                    kept = node.credit
                node.pending = node.credit - kept
                node.fail = self._suffix(text)
                # An ending of the text may be a complete phrase too, and it ends here for good.
                if node.fail is not None:
                    node.banked += node.fail.banked
                below += [(child, text + character, kept) for character, child in node.next.items()]
            level = below

    def _bound(self, node: Node) -> None:
        """What a letter after each node gains at most."""
        place: Node | None = node
        best = 0.0
        while place is not None:
            for character, target in place.next.items():
                if character != BORDER:
                    best = max(best, target.banked + target.pending - node.pending)
            place = place.fail
        node.most = math.exp(best) * (1 + 1e-9)
        for child in node.next.values():
            self._bound(child)

    def _suffix(self, text: str) -> Node | None:
        """The node of the longest ending that begins with a word; texts of that length are linked already."""
        start = text.find(BORDER) + 1
        while start:
            node: Node | None = self.root
            for character in text[start:]:
                node = node.next.get(character) if node else None
            if node is not None:
                return node
            start = text.find(BORDER, start) + 1
        return None


def check_phrase(text: str, boost: float) -> None:
    """Refuse a phrase that cannot work.

    Raises:
        ConfigurationError: see `Hotwords`.
    """
    if not text.strip():
        raise ConfigurationError("a hotword is empty; expected a word or a phrase")
    number = isinstance(boost, int | float) and not isinstance(boost, bool)
    if not number or not math.isfinite(boost) or not 0 < boost <= LARGEST_BOOST:
        raise ConfigurationError(
            f"the boost of the hotword {text!r} is {boost!r}, expected a number above 0 and up to {LARGEST_BOOST:g}: "
            "the bonus of each letter as a natural logarithm"
        )


def parse_hotword(text: str) -> tuple[str, float]:
    """A phrase and its boost from "phrase" or "phrase:boost".

    Raises:
        ConfigurationError: an empty phrase, or a boost that is no number in range.
    """
    phrase, colon, number = text.rpartition(":")
    if not colon:
        phrase, boost = text, DEFAULT_BOOST
    else:
        try:
            boost = float(number)
        except ValueError:
            raise ConfigurationError(
                f"hotword {text!r}: {number!r} is no number; expected PHRASE or PHRASE:BOOST, such as wavlm:2"
            ) from None
    check_phrase(phrase, boost)
    return " ".join(phrase.lower().split()), boost

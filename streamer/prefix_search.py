"""`PrefixSearch`: the beam itself, frame by frame: texts, their weights and their best paths.

For every text y of the beam the probability of the frames so far is kept as the sum over all paths that write y
(Hannun et al. 2014, algorithm 1), apart for paths that end with a blank and with the last letter of y. A frame either
leaves a text as it is or puts one output behind it; afterwards the best texts are kept.

Arithmetic is done on probabilities, rescaled before they leave the range of floats. A frame that is almost surely
blank changes all texts alike and costs next to nothing. Frames are read one by one, in plain Python: with the few
outputs that a frame leaves in question, arrays would cost more than they save, and the result cannot depend on how
frames are cut into calls, not in the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .alphabet import Alphabet
from .beam_frame import Ear, Heard
from .fusion import Context, Fusion
from .hotwords import BORDER
from .hypotheses import Hypothesis, Letters, Path, Span

FIRST_SYMBOL = 0x100000  # a private plane of Unicode
SMALL, LARGE = 1e-60, 1e60


@dataclass(frozen=True)
class BeamRules:
    """How wide the search is."""

    width: int = 16
    """Texts that are kept after each frame."""
    token_cutoff: float = 8.0
    """Outputs so much less likely than the frame's best are not looked at; natural logarithm."""
    beam_cutoff: float = 14.0
    """Texts so much worse than the best are dropped; natural logarithm."""
    blank_skip: float = 0.99
    """A frame whose blank is more probable than this changes no text."""
    confidence_temperature: float = 1.0
    """Above 1, alternatives count for more in confidences."""
    carry_context: bool = False
    """The language model goes on over the end of a segment, instead of beginning a sentence there."""
    prior_weight: float = 0.0
    """Each output's probability is divided by its mean, `Alphabet.prior`, to this power; 0: it stays."""


class PrefixSearch:
    """The beam of one stream since the last stable word.

    Args:
        alphabet: what the outputs stand for.
        rules: how wide to search.
        fusion: language model and hotwords.
    """

    def __init__(self, alphabet: Alphabet, rules: BeamRules, fusion: Fusion) -> None:
        self.alphabet = alphabet
        self.rules = rules
        self.fusion = fusion
        self.symbols = [chr(FIRST_SYMBOL + index) for index in range(len(alphabet))]
        """A private character for each output; texts are strings of them."""
        self.border = None if alphabet.delimiter_id is None else self.symbols[alphabet.delimiter_id]
        self.beam: list[Hypothesis] = []
        """Best first; never empty."""
        self.scale = 0.0
        """Natural logarithm of the factor that is missing in all weights."""
        self.pause_frames = 0
        """Silent frames at the end."""
        self.labels = [BORDER if i == alphabet.delimiter_id else label for i, label in enumerate(alphabet.labels)]
        self.floor = math.exp(-rules.beam_cutoff)
        self._ear = Ear(alphabet, rules.prior_weight)
        self._letters = all(len(label) <= 1 for label in alphabet.labels)
        self.begin(-1, 1.0, 0.0, fusion.start() if fusion else None)

    def begin(self, last: int, blank: float, letter: float, context: Context | None) -> None:
        """Start anew with one empty text.

        Args:
            last: output that sounds on from before, -1 for none.
            blank: share of the paths that have ended with a blank since.
            letter: share of those that have not: for them a repeat of `last` writes nothing.
            context: of the empty text, where there is fusion.
        """
        first = Hypothesis("", last, "", context)
        first.blank = first.blank_best = blank
        first.letter = first.letter_best = letter
        self.beam = [first]
        self.scale = 0.0
        self.root = first.context  # of where the keys begin
        self.merged = not letter  # no path ends with a letter

    def fork(self) -> PrefixSearch:
        """One of its own that stands where this one stands."""
        fork = object.__new__(PrefixSearch)
        fork.__dict__.update(self.__dict__)
        fork.beam = [h.copy() for h in self.beam]
        return fork

    def rest(self, blank: float) -> None:
        """Advance by one frame that is blank for all texts, with this log-probability."""
        if not self.merged:
            for h in self.beam:
                h.blank_path, h.letter_path = h.path, (None, None)
                h.blank, h.letter = h.blank + h.letter, 0.0
                h.blank_best, h.letter_best = max(h.blank_best, h.letter_best), 0.0
            self.merged = True
        self.rested(blank)

    def rested(self, blank: float) -> None:
        """Keep account of a frame that is blank for all texts."""
        self.scale += blank
        self.pause_frames += 1

    def read(self, frame: int, outputs: Sequence[int], logprobs: Sequence[float]) -> None:
        """Advance by one frame.

        Args:
            frame: its index in the stream.
            outputs: those that are not cut off, the blank among them.
            logprobs: natural log-probability of each.
        """
        heard = self._ear.heard(outputs, logprobs)
        self.listened(heard)
        beam, step = self.beam, self.fusion.step
        stays = self._stays(heard)
        moved, taken = self._join(frame, heard, stays)
        weights = [stay[0] + stay[1] for stay in stays]
        # A text that is new has to be better than this to be kept: texts stay in front of equal ones.
        least = self.floor * max(weights)
        if len(beam) == self.rules.width:
            least = max(least, min(weights))
        grown: list[tuple[int, int, float]] = []  # texts that are new: before, output, its probability with fusion
        delimiter, labels = self.alphabet.delimiter_id, self.labels
        for i, h in enumerate(beam):
            total, context, known = h.blank + h.letter, h.context, taken.get(i, ())
            gains: dict[str, float] = {}
            bound = total
            if context is not None:
                gains, bound = context.gains, total * self.most(context)
            for token, p in heard.tokens:
                if token == delimiter:
                    if not h.word or token in known:
                        continue
                elif p * bound <= least:
                    break
                elif token in known:
                    continue
                factor = p
                if context is not None:
                    gain = gains.get(label := labels[token])
                    factor *= self.fusion.gain(context, label) if gain is None else gain
                weight = factor * (h.blank if token == h.last else total)  # only after a blank is it a second letter
                if weight > least:
                    grown.append((i, token, factor))
                    weights.append(weight)
        order = sorted(range(len(weights)), key=weights.__getitem__, reverse=True)[: self.rules.width]
        top = weights[order[0]]
        if not top:
            return  # a frame that is impossible for all texts: as if it had not been
        kept = [at for at in order if weights[at] > self.floor * top]
        children: dict[int, Hypothesis] = {}
        for at in kept:
            if at >= len(beam):
                i, token, factor = grown[at - len(beam)]
                h = beam[i]
                best = h.blank_best if token == h.last else max(h.blank_best, h.letter_best)
                context = None if h.context is None else step(h.context, labels[token])[1]
                path = self.longer(h, h.blank_path if token == h.last else h.path, token, frame, heard.of.get(token, 0))
                children[at] = self.child(h, token, weights[at], factor * best, context, path)
        for at in kept:
            if at < len(beam):
                h, stay = beam[at], stays[at]
                again = h.letter_path  # a letter that sounds on ends later
                if again[0] is not None:
                    (first, _, letters), p = again[0], heard.of.get(h.last, 0.0)
                    if p > letters.peak:
                        letters = letters._replace(peak=p)
                    again = (first, frame + 1, letters), again[1]
                h.blank_path, h.letter_path = moved.get((at, 0)) or h.path, moved.get((at, 1)) or again
                h.blank, h.letter, h.blank_best, h.letter_best = stay
        self.beam = [children[at] if at >= len(beam) else beam[at] for at in kept]
        self.weighed(top)

    def listened(self, heard: Heard) -> None:
        """Count silent frames."""
        self.pause_frames = self.pause_frames + 1 if heard.quiet + heard.border > 0.5 else 0

    def most(self, context: Context) -> float:
        """No letter multiplies the weight of a text with this context by more."""
        return self.fusion.most(context) if self._letters else math.inf

    def weighed(self, top: float) -> None:
        """Keep the weights, of which this is the highest, in the range of floats."""
        self.merged = False
        if not SMALL < top < LARGE:
            self.multiply([1.0 / top] * len(self.beam))
            self.scale += math.log(top)

    def _stays(self, heard: Heard) -> list[list[float]]:
        """Blank, letter and their best paths, of the texts as they are."""
        quiet, quiet_best, border, _, of = heard
        # between words a delimiter writes nothing
        between, between_best = quiet + border, max(quiet_best, border)
        stays = []
        for h in self.beam:
            letter, blank_best, letter_best = h.letter, h.blank_best, h.letter_best
            total, best = h.blank + letter, blank_best if blank_best >= letter_best else letter_best
            again = of.get(h.last, 0.0) if letter else 0.0
            if h.word:
                stays.append([quiet * total, again * letter, quiet_best * best, again * letter_best])
            else:
                stays.append([between * total, again * letter, between_best * best, again * letter_best])
        return stays

    def _join(
        self, frame: int, heard: Heard, stays: list[list[float]]
    ) -> tuple[dict[tuple[int, int], Path], dict[int, list[int]]]:
        """Add to the texts of the beam what grows into them from a shorter one.

        Returns:
            Paths that are the best now, by the text and the kind; the outputs of each text that are dealt with.
        """
        beam, delimiter = self.beam, self.alphabet.delimiter_id
        index_of = {h.key: i for i, h in enumerate(beam)}
        moved: dict[tuple[int, int], Path] = {}
        taken: dict[int, list[int]] = {}
        for j, longer in enumerate(beam):
            i = index_of.get(longer.key[:-1]) if longer.key else None
            if i is None:
                continue
            h, token = beam[i], ord(longer.key[-1]) - FIRST_SYMBOL
            factor = heard.border if token == delimiter else heard.of.get(token, 0.0)
            if not factor:
                continue
            taken.setdefault(i, []).append(token)
            if h.context is not None:
                factor *= self.fusion.gain(h.context, self.labels[token])
            repeats, kind = token == h.last, 0 if token == delimiter else 1
            stays[j][kind] += factor * (h.blank if repeats else h.blank + h.letter)
            path_weight = factor * (h.blank_best if repeats else max(h.blank_best, h.letter_best))
            if path_weight > stays[j][kind + 2]:
                stays[j][kind + 2] = path_weight
                path = h.blank_path if repeats else h.path
                moved[j, kind] = self.longer(h, path, token, frame, heard.of.get(token, 0.0))
        return moved, taken

    def longer(self, h: Hypothesis, path: Path, token: int, frame: int, p: float) -> Path:
        """A path of a text with one more output, which has this probability."""
        frames, words = path
        if token == self.alphabet.delimiter_id:
            return (None, (Span(h.word, *frames), words)) if frames else (None, words)
        label = self.alphabet.labels[token]
        if frames is None:
            return (frame, frame + 1, Letters(label, frame, frame, None, p, 1.0, 1)), words
        first, end, before = frames
        letters = Letters(label, frame, end, before, p, before.product * before.peak, before.length + 1)
        return (first, frame + 1, letters), words

    def child(
        self, h: Hypothesis, token: int, weight: float, path_weight: float, context: Context | None, path: Path
    ) -> Hypothesis:
        """A text with one more output."""
        closing = token == self.alphabet.delimiter_id
        word = "" if closing else h.word + self.alphabet.labels[token]
        child = Hypothesis(h.key + self.symbols[token], -1 if closing else token, word, context)
        if closing:
            child.blank, child.blank_best, child.blank_path = weight, path_weight, path
        else:
            child.letter, child.letter_best, child.letter_path = weight, path_weight, path
        return child

    def multiply(self, factors: Sequence[float]) -> None:
        """Multiply the weights of each text."""
        for h, factor in zip(self.beam, factors, strict=True):
            h.blank, h.letter = h.blank * factor, h.letter * factor
            h.blank_best, h.letter_best = h.blank_best * factor, h.letter_best * factor

    def cut(self, key: str) -> None:
        """Drop the texts that do not begin so, and this beginning, which ends with the delimiter, from the others."""
        self.beam = [h for h in self.beam if h.key.startswith(key)]
        for h in self.beam:
            h.key = h.key[len(key) :]
        if self.root is not None:
            self.root = self.replay(self.root, key)

    def replay(self, context: Context, key: str) -> Context:
        """The context after a text."""
        for symbol in key:
            context = self.fusion.step(context, self.labels[ord(symbol) - FIRST_SYMBOL])[1]
        return context

    def fuse(self, fusion: Fusion) -> None:
        """Score by another fusion from now on, the texts of the beam too.

        The language model goes on where it stood, hotwords begin at the first word of the beam.
        """
        root = self.root
        if root is None or root.state is None:
            root = fusion.start()
        else:
            root = Context(root.total, root.state, "", 0.0, fusion.hotwords.root)
        self.fusion = fusion
        gains = []
        for h in self.beam:
            before = h.context.total if h.context is not None else root.total
            h.context = self.replay(root, h.key)
            gains.append(h.context.total - before)
        most = max(gains)
        self.multiply([math.exp(gain - most) for gain in gains])
        self.scale += most
        self.beam.sort(key=lambda h: -h.weight)
        self.root = root
        if not fusion:
            self.root = None
            for h in self.beam:
                h.context = None

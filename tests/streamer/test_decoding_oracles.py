"""The beam against decoders of others on the same outputs: flashlight-text, which CI installs; pyctcdecode where it is.

Both sum over ways to say a text, and prune in other places than we do. So where the texts differ, ours must be the one
with the higher score, which is computed apart from both: by torch's CTC loss and by the formula of the language model.
"""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wavlm_live.streamer.alphabet import Alphabet
from wavlm_live.streamer.build_language_model import build, choose_vocabulary
from wavlm_live.streamer.decoding import DecodingSettings, make_decoder
from wavlm_live.streamer.encoder import LocalEncoder
from wavlm_live.streamer.ngrams import NgramModel
from wavlm_live.streamer.recogniser import Recogniser
from wavlm_live.streamer.sources import FileSource

LABELS = ("", "", *"abc'")
ALPHABET = Alphabet(LABELS, blank_id=0, delimiter_id=1)


def rows_of(seed: int, frames: int, sharpness: float, alphabet: Alphabet = ALPHABET) -> np.ndarray:
    """Random frames, most of them blank, so that texts have the length that they have in speech.

    Delimiters come apart from each other: two with blanks between are one to us, since the second writes nothing, but
    make another text for the others.
    """
    scores = np.random.default_rng(seed).normal(size=(frames, len(alphabet))) * sharpness
    scores[:, alphabet.blank_id] += sharpness
    delimiters = np.arange(frames) % 7 == 5
    scores[:, alphabet.delimiter_id] += np.where(delimiters, sharpness, -50.0)
    return (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)


def collapsed(ids: list[int], alphabet: Alphabet) -> str:
    """The text of a path of outputs."""
    merged = [index for index, _ in itertools.groupby(ids)]
    return " ".join("".join(" " if i == alphabet.delimiter_id else alphabet.labels[i] for i in merged).split())


def flashlight(
    logprobs: np.ndarray, alphabet: Alphabet, model: NgramModel | None = None, weight: float = 0.0, width: int = 400
) -> str:
    """The text that flashlight's lexicon-free decoder finds."""
    decoder = pytest.importorskip("flashlight.lib.text.decoder", reason="no oracle: pip install flashlight-text")
    options = decoder.LexiconFreeDecoderOptions(
        beam_size=width,
        beam_size_token=len(alphabet),
        beam_threshold=50.0,
        lm_weight=weight,
        sil_score=0.0,
        log_add=True,
        criterion_type=decoder.CriterionType.CTC,
    )
    scorer = decoder.ZeroLM() if model is None else characters_for(decoder, alphabet, model)
    search = decoder.LexiconFreeDecoder(options, scorer, -1, alphabet.blank_id, [])
    rows = np.ascontiguousarray(logprobs, dtype=np.float32)
    best = search.decode(rows.ctypes.data, *rows.shape)[0]
    return collapsed([t for t in best.tokens if t >= 0], alphabet)


def characters_for(decoder: Any, alphabet: Alphabet, model: NgramModel) -> Any:
    """Our character model as flashlight asks for one: states are its own, ours are kept beside them."""

    class Characters(decoder.LM):
        def __init__(self) -> None:
            super().__init__()
            self.known: dict[Any, Any] = {}

        def start(self, start_with_nothing: bool) -> Any:
            state = decoder.LMState()
            self.known[state] = model.start()
            return state

        def score(self, state: Any, token: int) -> tuple[Any, float]:
            after = state.child(token)
            label = "|" if token == alphabet.delimiter_id else alphabet.labels[token]
            logprob, self.known[after] = model.score(self.known[state], label)
            return after, logprob

        def finish(self, state: Any) -> tuple[Any, float]:
            return state, 0.0

    return Characters()


def exact(logprobs: np.ndarray, text: str, alphabet: Alphabet) -> float:
    """ln p(text | sound) by torch: the sum over all ways to write it with up to two delimiters where one may stand."""
    assert alphabet.delimiter_id is not None
    words = [[alphabet.labels.index(letter) for letter in word] for word in text.split()]
    inputs = torch.from_numpy(logprobs).double()[:, None]
    losses = []
    for counts in itertools.product(range(3), *[(1, 2)] * max(0, len(words) - 1), range(3)):
        ids = [alphabet.delimiter_id] * counts[0]
        for word, after in zip(words, counts[1:], strict=False):
            ids += word + [alphabet.delimiter_id] * after
        if ids:
            lengths = [len(logprobs)], [len(ids)]
            losses.append(
                torch.nn.functional.ctc_loss(
                    inputs, torch.tensor([ids]), *lengths, blank=alphabet.blank_id, reduction="sum"
                )
            )
    return float(torch.logsumexp(-torch.stack(losses), dim=0))


def ours(logprobs: np.ndarray, alphabet: Alphabet, **settings: Any) -> str:
    model = settings.pop("model", None)
    given = {"method": "beam", "beam_width": 400, "blank_skip": 1.0, "stability": 1.0, "word_score": 0.0, **settings}
    decoder = make_decoder(alphabet, DecodingSettings(**given), language_model=model)
    decoder.accept(logprobs)
    return decoder.nbest(1)[0].text


@pytest.mark.parametrize("sharpness", [2.0, 3.0, 6.0])
def test_as_good_as_flashlight(sharpness: float, seed: int) -> None:
    same = 0
    for n in range(12):
        logprobs = rows_of(seed + n, 12 + n, sharpness)
        mine, theirs = ours(logprobs, ALPHABET, token_cutoff=60.0, beam_cutoff=50.0), flashlight(logprobs, ALPHABET)
        same += mine == theirs
        if mine != theirs:
            assert exact(logprobs, mine, ALPHABET) >= exact(logprobs, theirs, ALPHABET) - 0.15, (mine, theirs)
    assert same >= 6


@pytest.fixture(scope="module")
def characters() -> NgramModel:
    rng = random.Random(1)
    words = ["ab", "cab", "ba", "a'b", "cc", "abba"]
    text = [list("|".join(rng.choices(words, k=rng.randint(1, 6)))) for _ in range(300)]
    return build(text, choose_vocabulary(text, 1), 4)[0]


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_fused_like_flashlight(characters: NgramModel, weight: float, seed: int) -> None:
    """The same character model with the same weight leads both to the same texts."""
    same = helped = 0
    for n in range(12):
        logprobs = rows_of(seed + n, 16, 2.0)
        plain = ours(logprobs, ALPHABET, token_cutoff=60.0, beam_cutoff=50.0)
        mine = ours(logprobs, ALPHABET, token_cutoff=60.0, beam_cutoff=50.0, lm_weight=weight, model=characters)
        theirs = flashlight(logprobs, ALPHABET, characters, weight)
        same += mine == theirs
        helped += mine != plain
    assert same >= 6  # of beams of two kinds, which agree nine times in ten on such noise
    assert helped >= 3


def test_as_good_as_flashlight_on_speech(audio_folder: Path) -> None:
    """On the outputs of the bundled model for real recordings."""
    recogniser = Recogniser.load(device="cpu")
    alphabet = recogniser.alphabet
    same = 0
    names = ("digit_seven", "command_left", "command_stop", "sentence_rope")
    for name in names:
        encoder = LocalEncoder(recogniser.model, recogniser.context())
        with FileSource(audio_folder / f"{name}.opus") as source:
            sound = np.concatenate(list(source))
        rows = []
        for start in range(0, len(sound), encoder.hop_samples):
            encoder.listen(sound[start : start + encoder.hop_samples])
            if encoder.waiting_frames >= recogniser.context().step_frames:
                step = encoder.step()
                rows.append(step.logprobs[: step.own_frames])
        while encoder.waiting_frames:
            step = encoder.step(final=True)
            rows.append(step.logprobs[: step.own_frames])
        logprobs = np.concatenate(rows)
        mine, theirs = ours(logprobs, alphabet, beam_width=50), flashlight(logprobs, alphabet, width=50)
        same += mine == theirs
        if mine != theirs:
            assert exact(logprobs, mine, alphabet) >= exact(logprobs, theirs, alphabet) - 0.15, (mine, theirs)
        assert math.isfinite(exact(logprobs, mine, alphabet))
    assert same >= len(names) - 1

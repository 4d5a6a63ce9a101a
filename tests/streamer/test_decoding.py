"""Decoding settings: refused by name, and the decoders they make: language model, hotwords and segmenter together."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wavlm_live.model.errors import ConfigurationError, StreamError
from wavlm_live.streamer.alphabet import Alphabet
from wavlm_live.streamer.beam import BeamDecoder
from wavlm_live.streamer.build_language_model import build, choose_vocabulary
from wavlm_live.streamer.decoding import DecodingSettings, hotwords_for, make_decoder
from wavlm_live.streamer.endpointing import EndpointRules
from wavlm_live.streamer.events import Final, Partial
from wavlm_live.streamer.greedy import GreedyDecoder
from wavlm_live.streamer.language_model import load_language_model
from wavlm_live.streamer.ngrams import NgramModel
from wavlm_live.streamer.recogniser import Recogniser
from wavlm_live.streamer.segmenter import Segmenter
from wavlm_live.streamer.session import Session, SessionSettings
from wavlm_live.streamer.voice_activity import SpeechRules

SPEECH = SpeechRules("model", min_speech_ms=0, min_silence_ms=100, padding_ms=0)
ALPHABET = Alphabet(("", "", *"abcdefghijklmnopqrstuvwxyz'"), blank_id=0, delimiter_id=1)
TEXT = [line.split() for line in ["the cat sat", "the cat ran", "a cat sat", "the hat", "he sat", "a hat a cat"]]


@pytest.fixture(scope="module")
def model() -> NgramModel:
    return build(TEXT, choose_vocabulary(TEXT, 1), 3)[0]


@pytest.fixture(scope="module")
def model_path(model: NgramModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lm") / "cat.arpa"
    model.write(path)
    return path


def frames(text: str, rivals: dict[int, tuple[str, float]] | None = None, silence: int = 16) -> np.ndarray:
    """Two frames a character; `rivals` names another character and its probability at some of them."""
    rows = []
    for at, character in enumerate(text):
        row = np.full(len(ALPHABET), 1e-5)
        other, p = (rivals or {}).get(at, (character, 0.0))
        for label, share in ((character, 1 - p), (other, p)):
            row[1 if label == " " else ALPHABET.labels.index(label)] += share
        rows += [row, np.eye(len(ALPHABET))[0] + 1e-5]
    rows += [np.eye(len(ALPHABET))[0] + 1e-6] * silence
    return np.log(np.array(rows) / np.sum(rows, axis=1, keepdims=True)).astype(np.float32)


def text_of(decoder: BeamDecoder | GreedyDecoder) -> str:
    return " ".join(word.text for word in decoder.words)


BAD = {
    "method": ["fast", None],
    "beam_width": [0, 1001, 2.5, True, "16"],
    "token_cutoff": [-1, math.nan, "8"],
    "beam_cutoff": [-0.1, math.nan],
    "blank_skip": [0, 1.1, -1],
    "lm_path": ["", 3, Path("x.arpa")],
    "lm_weight": [-1, 11, True],
    "word_score": [21, -21],
    "unknown_penalty": [-1, 101],
    "prior_weight": [-0.1, 2.1, "1"],
    "carry_context": [1, None],
    "hotwords": [["a"], ("a",), (("a", 0.0),), (("", 1.0),), (("a", "1"),), (("a", 1.0, 2.0),), ((1, 1.0),)],
    "stability": [-0.1, 1.1, None],
    "looks": [0, 3, True, 1.0],
    "details": [1, None],
    "confidence_temperature": [0, -1],
    "confidence_scale": [-0.1, 101, "1"],
    "confidence_letters": [-0.1, math.inf],
    "confidence_shift": [-21, math.nan],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_bad_values_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"DecodingSettings\.{name}"):
        DecodingSettings(**{"method": "beam", name: value})


def test_every_field_is_tried() -> None:
    assert {field.name for field in dataclasses.fields(DecodingSettings)} == BAD.keys()


def test_greedy_takes_neither_model_nor_hotwords() -> None:
    for wrong in ({"lm_path": "x.arpa"}, {"hotwords": (("a", 1.0),)}):
        with pytest.raises(ConfigurationError, match=f"{next(iter(wrong))}.*method"):
            DecodingSettings(**wrong)


def test_the_decoder_of_each_method() -> None:
    assert isinstance(make_decoder(ALPHABET), GreedyDecoder)
    decoder = make_decoder(ALPHABET, DecodingSettings(method="beam", beam_width=5, stability=1.0), hop_samples=160)
    assert isinstance(decoder, BeamDecoder)
    assert (decoder.rules.width, decoder.stability.doubt, decoder.hop_samples) == (5, 0.0, 160)


def test_settings_reach_the_search(model: NgramModel) -> None:
    given_settings = DecodingSettings(
        "beam", 7, 5.0, 6.0, 0.9, None, 0.3, 2.0, 4.0, 0.2, True, (("ann", 1.0),), 0.5, 1, False, 2.0
    )
    alphabet = dataclasses.replace(ALPHABET, prior=(-1.0,) * len(ALPHABET))
    decoder = make_decoder(alphabet, given_settings, language_model=model)
    assert isinstance(decoder, BeamDecoder)
    rules, weights = decoder.rules, decoder._search.fusion.weights
    assert (rules.width, rules.token_cutoff, rules.beam_cutoff, rules.blank_skip) == (7, 5.0, 6.0, 0.9)
    assert (rules.confidence_temperature, rules.carry_context, rules.prior_weight) == (2.0, True, 0.2)
    assert (weights.weight, weights.word_score, weights.unknown_penalty) == (0.3, 2.0, 4.0)
    assert decoder._search.fusion.hotwords.phrases == (("ann", 1.0),)


def test_hotwords_that_the_alphabet_cannot_write() -> None:
    with pytest.raises(ConfigurationError, match="'é'"):
        hotwords_for(ALPHABET, (("café", 1.0),))
    with pytest.raises(ConfigurationError, match="two words"):
        hotwords_for(Alphabet(("", "a", "b"), blank_id=0), (("a b", 1.0),))
    assert hotwords_for(ALPHABET, (("O'Neil", 1.0),)).phrases == (("o'neil", 1.0),)


def test_the_model_is_loaded_once_for_all_streams(model_path: Path) -> None:
    setting = DecodingSettings(method="beam", lm_path=str(model_path))
    one, two = make_decoder(ALPHABET, setting), make_decoder(ALPHABET, setting)
    assert isinstance(one, BeamDecoder)
    assert isinstance(two, BeamDecoder)
    assert one._search.fusion.model is two._search.fusion.model is load_language_model(str(model_path))


def test_the_language_model_decides_what_the_sound_leaves_open(model_path: Path) -> None:
    logprobs = frames("the dat sat", {4: ("c", 0.45)})
    plain = make_decoder(ALPHABET, DecodingSettings(method="beam"))
    fused = make_decoder(ALPHABET, DecodingSettings(method="beam", lm_path=str(model_path)))
    for decoder in (plain, fused):
        decoder.accept(logprobs)
    assert text_of(plain) == "the dat sat"
    assert text_of(fused) == "the cat sat"
    assert isinstance(fused, BeamDecoder)
    word = fused.words[1]
    assert 0.9 < word.confidence < 1
    assert [text for text, _ in fused.alternatives()[1]][:2] == ["cat", "dat"]


def test_the_language_model_hears_what_came_before(model: NgramModel) -> None:
    """In the text, "cat" follows "the" twice as often as "hat"; after "a" with the model off, the sound decides."""
    logprobs = frames("the hat", {4: ("c", 0.49)})
    setting = DecodingSettings(method="beam", lm_weight=1.0)
    decoder = make_decoder(ALPHABET, setting, language_model=model)
    decoder.accept(logprobs)
    assert text_of(decoder) == "the cat"
    carried = [
        make_decoder(ALPHABET, dataclasses.replace(setting, carry_context=carry), language_model=model)
        for carry in (False, True)
    ]
    for decoder in carried:
        decoder.accept(frames("the"))
        decoder.reset()
        decoder.accept(frames("hat", {0: ("c", 0.49)}))
        assert isinstance(decoder, BeamDecoder)
    start, going_on = (d._search.fusion.start(None).state for d in carried if isinstance(d, BeamDecoder))
    assert start == going_on
    assert text_of(carried[1]) == "cat"
    scores = [d.nbest(1)[0].score for d in carried if isinstance(d, BeamDecoder)]
    assert scores[0] != pytest.approx(scores[1], abs=0.1)


def test_a_name_outside_the_vocabulary_is_spelled_out_as_a_hotword(model: NgramModel) -> None:
    """The sound is for "wat", the model knows "hat" and "sat"; only the hotword keeps the unknown word."""
    logprobs = frames("the wat", {4: ("h", 0.3)})
    setting = DecodingSettings(method="beam", unknown_penalty=10.0)
    hot = dataclasses.replace(setting, hotwords=(("wat", 1.5),))
    without = make_decoder(ALPHABET, setting, language_model=model)
    with_hotword = make_decoder(ALPHABET, hot, language_model=model)
    for decoder in (without, with_hotword):
        decoder.accept(logprobs)
    assert text_of(without) == "the hat"
    assert text_of(with_hotword) == "the wat"


@settings(max_examples=25)
@given(data=st.data(), seed=st.integers(0, 1000), stability=st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_in_a_segmenter_stable_text_only_grows_and_finals_begin_with_it(
    data: st.DataObject, seed: int, stability: float
) -> None:
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("abc"), rng.integers(1, 4))) for _ in range(8)]
    parts = []
    for word in words:
        rivals = {int(rng.integers(len(word))): (str(rng.choice(list("abc "))), float(rng.uniform(0, 0.6)))}
        parts.append(frames(word + " ", rivals, silence=int(rng.choice([0, 1, 5, 14]))))
    logprobs = np.concatenate(parts)
    rules = EndpointRules(silence_ms=200, max_segment_s=1.2, no_speech_ms=400)
    setting = DecodingSettings(method="beam", stability=stability, beam_width=8)

    def new() -> Segmenter:
        return Segmenter(
            make_decoder(ALPHABET, setting),
            rules,
            SPEECH,
        )

    segmenter, at, stable, decided, ends = new(), 0, "", 0, [0]
    finals: list[Final] = []
    while at < len(logprobs):
        size = data.draw(st.integers(1, 30))
        events = segmenter.accept(logprobs[at : at + size])
        at += size
        events += segmenter.partial(logprobs[at : at + data.draw(st.integers(0, 10))])
        if at >= len(logprobs):
            events += segmenter.close()
        for event in events:
            if isinstance(event, Final):
                assert (event.text + " ").startswith(stable + " " if stable else "")
                stable = ""
                finals.append(event)
                for word in event.words:
                    assert ends[-1] <= word.start_samples < word.end_samples
                    ends.append(word.end_samples)
            elif isinstance(event, Partial):
                assert (event.stable + " ").startswith(stable + " " if stable else "")
                stable = event.stable
        assert decided <= segmenter.decided_samples
        decided = segmenter.decided_samples
    whole = new()
    expected = [e for e in whole.accept(logprobs) + whole.close() if isinstance(e, Final)]
    assert finals == expected  # however the frames were cut


def test_what_a_rival_may_still_say_is_not_decided() -> None:
    """The best text is empty, but another one holds a word, and wins once it is a hotword."""
    decoder = make_decoder(ALPHABET, DecodingSettings(method="beam"))
    assert isinstance(decoder, BeamDecoder)
    segmenter = Segmenter(decoder, EndpointRules(), SpeechRules("model"))
    rows = np.full((12, len(ALPHABET)), 1e-6)
    rows[:, 0] = 1
    rows[3, [0, 2]] = 0.6, 0.4
    segmenter.accept(np.log(rows / rows.sum(axis=1, keepdims=True)).astype(np.float32))
    assert decoder.words == ()
    assert segmenter.decided_samples == 3 * 320
    decoder.set_hotwords(hotwords_for(ALPHABET, (("a", 2.0),)))
    assert [(w.text, w.start_samples) for w in decoder.words] == [("a", 3 * 320)]
    assert segmenter.decided_samples == 3 * 320


@pytest.mark.parametrize("stability", [0.0, 0.5, 1.0])
def test_a_flush_in_a_segmenter_repeats_nothing(stability: float) -> None:
    setting = DecodingSettings(method="beam", stability=stability)
    text = "the cat sat on a hat"
    logprobs = frames(text, silence=30)
    for at in range(0, len(logprobs), 3):
        segmenter = Segmenter(make_decoder(ALPHABET, setting), EndpointRules(), SpeechRules("model"))
        events = segmenter.accept(logprobs[:at])
        events += segmenter.flush(logprobs[at : at + 7])
        events += segmenter.accept(logprobs[at:])
        events += segmenter.close()
        said = "".join(w.text for e in events if isinstance(e, Final) for w in e.words)
        assert said == text.replace(" ", "")


def test_sessions_of_one_recogniser_have_their_own_hotwords(tiny_model: Path, model_path: Path) -> None:
    recogniser = Recogniser.load(tiny_model, device="cpu")
    sound = np.random.default_rng(0).normal(scale=0.1, size=40_000).astype(np.float32)

    def hear(session: Session, hotwords: tuple[tuple[str, float], ...] | None = None) -> str:
        events = session.feed(sound[:20_000])
        if hotwords is not None:
            session.set_hotwords(hotwords)
        events += session.feed(sound[20_000:]) + session.finish()
        return " ".join(e.text for e in events if isinstance(e, Final))

    beam = SessionSettings(decoding=DecodingSettings(method="beam", lm_path=str(model_path)))
    plain = hear(recogniser.open(beam))
    assert "zz" not in plain
    eager, other = recogniser.open(beam), recogniser.open(beam)
    assert "zz" in hear(eager, (("zz", 20.0),))
    assert hear(other, ()) == plain
    with pytest.raises(StreamError, match="finished"):
        other.set_hotwords(())
    fresh = recogniser.open(beam)
    for wrong in ((("é", 1.0),), (("a", 0.0),)):
        with pytest.raises(ConfigurationError, match="hotword"):
            fresh.set_hotwords(wrong)
    assert hear(fresh) == plain
    with pytest.raises(ConfigurationError, match="greedily"):
        recogniser.open().set_hotwords((("a", 1.0),))


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--beam", "0", "--hotword", "ann"), "--beam 0 has no use for --hotword"),
        (("--hotword", "ann:x"), "'x' is no number"),
        (("--hotword", "café"), "'é'"),
        (("--lm", "none.arpa"), "no language model at none.arpa"),
        (("--beam", "2000"), "--beam"),
        (("--stability", "2"), "--stability"),
    ],
)
def test_decoding_options_that_cannot_work(
    command: Any, audio_folder: Path, arguments: tuple[str, ...], part: str
) -> None:
    answer = command("transcribe", audio_folder / "digit_four.opus", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert part in answer.err


def test_decoding_options_reach_the_session(command: Any, audio_folder: Path, model_path: Path) -> None:
    sound = audio_folder / "sentence_rope.opus"
    greedy = command("transcribe", sound)
    beam = command("transcribe", sound, "--beam", 4)
    fused = command("transcribe", sound, "--lm", model_path, "--lm-weight", 3, "--stability", 1)
    hot = command("transcribe", sound, "--hotword", "zz:20", "--hotword", "q q:20")
    assert [answer.code for answer in (greedy, beam, fused, hot)] == [0, 0, 0, 0]
    assert "zz" not in beam.out
    assert {"zz", "q"} & set(hot.out.split())
    known = {word for line in TEXT for word in line}
    assert len(known & set(fused.out.split())) > len(known & set(greedy.out.split()))

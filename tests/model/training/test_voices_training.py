"""Training both voice heads: conversations hold what they say, discriminant analysis folds in, the whole command."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from wavlm_live.model import WavLMConfig, WavLMForCTC
from wavlm_live.model.errors import ConfigurationError
from wavlm_live.model.time_delay import moments_of
from wavlm_live.model.training.cache import SoundCache
from wavlm_live.model.training.commands import main
from wavlm_live.model.training.conversations import Conversation, Conversations, Turn, label
from wavlm_live.model.training.manifest import Utterance
from wavlm_live.model.training.scores import equal_error_rate, verification_trials
from wavlm_live.model.training.voice_pairs import stretches_of
from wavlm_live.model.training.voice_scores import tuned_numbers
from wavlm_live.model.training.voices import best_layer, discriminant, rectified, solved_head
from wavlm_live.model.voice_heads import VoiceFrames, VoiceHeads

Data = tuple[list[Utterance], list[Utterance], SoundCache]


def small(**changes: object) -> WavLMConfig:
    values: dict[str, object] = {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
        "conv_dim": (8,) * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
        "feat_extract_norm": "layer", "do_stable_layer_norm": True, "vocab_size": 29,
    }  # fmt: skip
    return WavLMConfig(**(values | changes))  # type: ignore[arg-type]


def test_conversations_are_made_of_turns(data: Data, seed: int):
    """Labels cover exactly the sound that was put there; the same generator gives the same conversation."""
    train, _, cache = data
    maker = Conversations(train, cache, seconds=8.0, turn_s=(0.5, 1.0), pause_s=(0.2, 0.6), speeds=(1.0, 1.1))
    made = maker.draw(np.random.default_rng(seed), 3)
    again = maker.draw(np.random.default_rng(seed), 3)
    assert np.array_equal(made.wave, again.wave)
    assert len(made.wave) == 8 * 16_000
    assert len(made.names) == len(made.activity) == 3
    assert {turn.name for turn in made.turns} <= set(made.names)
    assert all(a.name != b.name for a, b in zip(made.turns, made.turns[1:], strict=False))
    level = np.sqrt(
        np.mean(np.square(made.wave[: 399 * 320].reshape(-1, 320)), axis=1)
    )  # of each frame's first samples
    spoken = made.activity.any(axis=0)
    inside = np.zeros(len(spoken), bool)
    for turn in made.turns:
        inside[turn.start_frame : turn.end_frame] = True
    assert not (spoken & ~inside).any()
    assert np.median(level[spoken[: len(level)]]) > 10 * np.median(level[~inside[: len(level)]])
    with pytest.raises(ConfigurationError, match="7 was asked for, the recordings have 6 speakers"):
        maker.draw(np.random.default_rng(seed), 7)
    with pytest.raises(ConfigurationError, match="no recording names its speaker"):
        Conversations([], cache)
    assert (label("a/b", 1.0), label("a/b", 0.9)) == ("a/b", "a/b@0.9")


def test_discriminant_analysis_makes_speakers_stand_out(seed: int):
    """A speaker's own variation is alike in all directions; directions in which speakers differ come first."""
    rng = np.random.default_rng(seed)
    names = [f"s{n % 40}" for n in range(800)]
    means = np.zeros((40, 12))
    means[:, :3] = rng.normal(0, 1.0, (40, 3))
    vectors = rng.normal(0, 1.0, (800, 12)) * np.linspace(0.3, 3.0, 12) + means[np.arange(800) % 40] + 5.0
    centre, matrix = discriminant(vectors, names, 3, principal=12, shrinkage=0.0)
    after = (vectors - centre) @ matrix.T
    assert after.shape == (800, 3)
    assert np.abs(after.mean(axis=0)).max() < 1e-9
    own = np.mean([np.cov(after[np.array(names) == name].T) for name in set(names)], axis=0)
    assert np.allclose(own, np.eye(3), atol=0.15)
    plain, found = (equal_error_rate(*verification_trials(names, values)) for values in (vectors - centre, after))
    assert found < plain


@torch.no_grad()
def test_the_head_computes_what_was_solved(seed: int):
    """Layers, scales, rectification, statistics and the analysis are one x-vector network."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    config = small(tdnn_dim=(32,), tdnn_kernel=(1,), tdnn_dilation=(1,), xvector_output_dim=5)
    states = torch.randn(3, 50, 16) * 2 + 1  # layers, frames, hidden
    scales = states.mean(1), states.std(1)
    centre, matrix = rng.normal(size=64), rng.normal(size=(5, 64))
    head = solved_head(config, 1, scales, centre, matrix)
    heads = VoiceHeads(config)
    heads.speaker = head
    (frames,) = heads.read([state[None] for state in states])
    assert frames.speaker is not None
    outputs, _ = head.delayed_step(frames.speaker, head.empty_carry())
    values = rectified(states[1], scales[0][1], scales[1][1])
    wanted = matrix @ (torch.cat([values.mean(0), values.std(0)]).double().numpy() - centre)
    assert head.embedding(moments_of(outputs)) == pytest.approx(wanted, abs=0.02)


def test_the_layer_that_tells_speakers_apart_is_chosen(seed: int):
    rng = np.random.default_rng(seed)
    names = [f"c{n % 2}/s{n % 10}" for n in range(100)]
    statistics = rng.normal(size=(100, 3, 8))
    statistics[:, 1] += 2 * rng.normal(size=(10, 8))[np.arange(100) % 10]
    layer, errors = best_layer(statistics, names)
    assert layer == 1
    assert errors[1] < 0.2 < min(errors[0], errors[2])


def test_numbers_are_tuned_on_trials(seed: int):
    rng = np.random.default_rng(seed)
    same = np.arange(4000) % 4 == 0
    scores = np.clip(rng.normal(np.where(same, 0.7, 0.2), 0.15), -1, 1)
    numbers = tuned_numbers({"scores": scores, "same": same, "within": np.ones(4000, bool)})
    assert numbers.new_below == pytest.approx(0.45, abs=0.03)
    assert numbers.known_above == pytest.approx(0.2 + 2.33 * 0.15, abs=0.05)
    assert numbers.probability(0.45) == pytest.approx(0.5, abs=0.08)
    assert numbers.probability(0.9) > 0.95 > 0.05 > numbers.probability(0.0)


def test_stretches_of_one_voice_alone():
    """Two people whose frames are unlike, now and then at once: a stretch is of who speaks alone, and long enough."""
    config = small().replace(tdnn_dim=(4,), tdnn_kernel=(1,), tdnn_dilation=(1,), xvector_output_dim=4)
    heads = VoiceHeads(config)
    speaker = heads.speaker
    assert speaker is not None
    with torch.no_grad():
        speaker.layers[0].kernel.weight.copy_(torch.eye(4))  # type: ignore[operator]
        speaker.layers[0].kernel.bias.zero_()  # type: ignore[operator]
        speaker.feature_extractor.weight.copy_(torch.cat([torch.eye(4), torch.zeros(4, 4)], 1))
        speaker.feature_extractor.bias.zero_()
    activity = np.zeros((2, 600), bool)
    activity[0, 10:170] = activity[1, 150:330] = activity[0, 360:415] = True
    turns = (Turn("a", 10, 170), Turn("b", 150, 330), Turn("a", 360, 415))
    made = Conversation(np.zeros(600 * 320, np.float32), ("a", "b"), activity, turns)
    values = np.zeros((600, 4), np.float32)
    values[:, 2:] = 0.1
    values[:, 0], values[:, 1] = activity[0], activity[1]
    heard = np.where(activity.any(axis=0), 0.9, 0.1).astype(np.float32)
    heard[200:210] = 0.2  # a pause that the head hears within a turn
    found = stretches_of(heads, made, VoiceFrames(heard, values))
    assert [name for name, _ in found] == ["a", "a", "b", "b"]  # 140 frames alone, then 150; 55 are too few
    for name, vector in found:
        assert np.linalg.norm(vector) == pytest.approx(1)
        assert vector["ab".index(name)] > 0.98
        assert vector["ba".index(name)] == pytest.approx(0, abs=1e-6)


def test_the_command(
    corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
):
    """Heads are trained, measured and written beside the encoder, and read again with it."""
    folder = tmp_path / "model"
    torch.manual_seed(1)
    model = WavLMForCTC(small())
    model.save_pretrained(folder)
    given = ["--manifest", str(corpus), "--cache", str(tmp_path / "cache")]
    short = ["--first-s", "80", "--first-steps", "5", "--stretch-s", "1", "--pairs-s", "120"]
    lines = corpus.read_text().splitlines()
    lines[21:] = [line.replace("\ttrain\t", "\tdev\t") for line in lines[21:]]
    corpus.write_text("\n".join(lines) + "\n")
    with caplog.at_level(logging.INFO):
        assert main(["voices", "--model", str(folder), *given, *short]) == 0
    assert capsys.readouterr().out == f"{folder}\n"
    heads = VoiceHeads.find(folder, model.config)
    assert heads is not None
    assert (heads.voices is None) == ("told apart by cosines alone" in caplog.text)
    heads.check(WavLMForCTC.from_pretrained(folder).wavlm)
    figures = heads.about["figures"]
    assert set(figures) == {"context", "stretch_s"}
    assert "dev is not measured" in caplog.text  # a stretch of each speaker makes no pair
    assert heads.activity is not None
    (tmp_path / "nobody.tsv").write_text(
        "\n".join("\t".join("" if n == 3 and i else c for n, c in enumerate(line.split("\t"))) for i, line in
                  enumerate(corpus.read_text().splitlines())) + "\n"
    )  # fmt: skip
    assert main(["voices", "--model", str(folder), "--manifest", str(tmp_path / "nobody.tsv"), *short]) == 1
    assert "no recording names its speaker" in caplog.text

"""`VoiceModel` against its definition: Gaussian densities computed outright, and speakers drawn from the model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import multivariate_normal

from wavlm_live.model import WavLMConfig
from wavlm_live.model.errors import CheckpointError, ConfigurationError
from wavlm_live.model.training.scores import equal_error_rate
from wavlm_live.model.voice_heads import WEIGHTS, VoiceHeads
from wavlm_live.model.voice_model import COUNTED, STRETCH_FRAMES, VoiceModel

DIM = 5
CONFIG = WavLMConfig(
    hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, tdnn_dim=(8, 8),
    tdnn_kernel=(5, 1), tdnn_dilation=(1, 1), xvector_output_dim=6,
)  # fmt: skip
"""The smallest encoder that has heads."""
ONE = round(STRETCH_FRAMES / COUNTED)
"""Frames that count as one independent observation."""


def drawn(
    rng: np.random.Generator, voices: int, each: int, dim: int = DIM, noise: float = 1.0
) -> tuple[np.ndarray, list[str]]:
    """Vectors around voices, with variances that differ by direction, and whose they are."""
    turn = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    between, within = turn * rng.uniform(0.3, 1.0, dim), np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    within = within * noise * rng.uniform(0.1, 0.4, dim)
    means = rng.normal(size=(voices, dim)) @ between.T + 0.5
    vectors = np.repeat(means, each, axis=0) + rng.normal(size=(voices * each, dim)) @ within.T
    return vectors, [f"v{n}" for n in range(voices) for _ in range(each)]


def covariances(model: VoiceModel) -> tuple[np.ndarray, np.ndarray]:
    """Of what varies within a voice, and of voices, as the model has them."""
    back = np.linalg.inv(model.matrix.double().numpy())
    return back @ back.T, back @ np.diag(model.between.double().numpy()) @ back.T


def test_odds_are_those_of_gaussian_densities(seed: int) -> None:
    """One observation on one side, three on the other: the densities of all four vectors, of one voice and of two."""
    rng = np.random.default_rng(seed)
    model = VoiceModel.of(*drawn(rng, 40, 12), shrinkage=0.2)
    within, between = covariances(model)
    centre = model.centre.double().numpy()

    def density(count: int, vectors: np.ndarray) -> float:
        """Logarithm, of vectors of one voice."""
        covariance = np.kron(np.ones((count, count)), between) + np.kron(np.eye(count), within)
        return float(multivariate_normal(np.tile(centre, count), covariance).logpdf(vectors.ravel()))

    for _ in range(20):
        vectors = rng.normal(size=(4, DIM)) * 0.5 + 0.5
        one = model.observed(vectors[0] * ONE, ONE)
        three = model.observed(vectors[1:].sum(axis=0) * ONE, 3 * ONE)
        expected = density(4, vectors) - density(1, vectors[:1]) - density(3, vectors[1:])
        assert one.same(three) == pytest.approx(expected, abs=2e-3)
        assert three.same(one) == pytest.approx(one.same(three))
        assert one.with_(three).evidence == pytest.approx(three.with_(one).evidence)


def test_covariances_are_found(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors, names = drawn(rng, 400, 30)
    model = VoiceModel.of(vectors, names, shrinkage=0.0)
    within, between = covariances(model)
    grouped = vectors.reshape(400, 30, DIM)
    own = (grouped - grouped.mean(axis=1, keepdims=True)).reshape(-1, DIM)
    np.testing.assert_allclose(within, own.T @ own / (len(own) - 400), atol=1e-4)
    means = grouped.mean(axis=1)
    np.testing.assert_allclose(between, np.cov(means.T), atol=1e-3)
    assert np.all(np.diff(model.between.numpy()) <= 0)
    length = np.sqrt(np.mean(np.sum(means**2, axis=1)))
    assert model.typical_length == pytest.approx(length, rel=0.02)


def test_it_tells_voices_apart_better_than_cosines(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors, names = drawn(rng, 120, 12, 24, noise=4.0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    model = VoiceModel.of(vectors[: 60 * 12], names[: 60 * 12])
    test = vectors[60 * 12 :].reshape(60, 12, -1)
    odds, cosines, same = [], [], []
    for _ in range(3000):
        a, b = int(rng.integers(60)), int(rng.integers(60))
        b = a if rng.random() < 0.5 else b
        known, one = test[a, :3].sum(axis=0), test[b, 3 + int(rng.integers(9))]
        odds.append(model.observed(known * 75, 225).same(model.observed(one * 75, 75)))
        cosines.append(known @ one / np.linalg.norm(known))
        same.append(a == b)
    truth = np.array(same)
    assert equal_error_rate(np.array(odds), truth) < equal_error_rate(np.array(cosines), truth)
    assert np.mean(np.array(odds)[truth] > 0) > 0.7


def test_too_few_voices_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="1 voices have three stretches"):
        VoiceModel.of(np.eye(6), ["a", "a", "a", "a", "b", "b"])
    with pytest.raises(ConfigurationError, match="0 voices"):
        VoiceModel.of(np.zeros((0, 1)), [])


def test_it_is_kept_beside_the_heads(tmp_path, seed: int) -> None:
    heads = VoiceHeads(CONFIG)
    identity = heads.identity
    heads.save(tmp_path)
    plain = VoiceHeads.find(tmp_path, CONFIG)
    assert plain is not None
    assert plain.voices is None
    dim = CONFIG.xvector_output_dim
    heads.voices = VoiceModel.of(*drawn(np.random.default_rng(seed), 30, 9, dim))
    assert heads.identity == identity  # who was enrolled stays known
    heads.save(tmp_path)
    found = VoiceHeads.find(tmp_path, CONFIG)
    assert found is not None
    assert found.voices is not None
    one, other = np.random.default_rng(seed).normal(size=(2, dim))
    expected = heads.voices.observed(one, 1).same(heads.voices.observed(other, 2))
    kept = found.voices.observed(one, 1).same(found.voices.observed(other, 2))
    assert kept == pytest.approx(expected, rel=0.02, abs=0.02)
    tensors = load_file(str(tmp_path / WEIGHTS))
    save_file({n: t for n, t in tensors.items() if n != "voices.between"}, str(tmp_path / WEIGHTS))
    with pytest.raises(CheckpointError, match=r"voices\.between"):
        VoiceHeads.find(tmp_path, CONFIG)
    assert torch.equal(tensors["voices.centre"], heads.voices.centre.half())

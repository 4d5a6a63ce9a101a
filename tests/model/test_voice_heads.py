"""Voice heads on a stream give what their models give on the whole recording; their files are checked."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from wavlm_live.model.audio_frame_classification import WavLMForAudioFrameClassification
from wavlm_live.model.context import StreamingContext
from wavlm_live.model.ctc import WavLMForCTC
from wavlm_live.model.errors import CheckpointError, ConfigurationError
from wavlm_live.model.pooling import statistics_pooling
from wavlm_live.model.time_delay import joined, moments_of
from wavlm_live.model.voice_heads import INDEX, WEIGHTS, SpeakerNumbers, VoiceFrames, VoiceHeads, sample_of
from wavlm_live.model.xvector import WavLMForXVector

SIZES = {
    "use_weighted_layer_sum": True,
    "num_labels": 2,
    "tdnn_dim": (12, 12, 20),
    "tdnn_kernel": (5, 3, 1),
    "tdnn_dilation": (1, 3, 1),
    "xvector_output_dim": 10,
}


def heads_of(model: WavLMForCTC, activity: WavLMForAudioFrameClassification, speaker: WavLMForXVector) -> VoiceHeads:
    """The heads of two whole models, whose encoder is the CTC model's."""
    heads = VoiceHeads(model.config.replace(**SIZES), encoder=sample_of(model.wavlm))
    for part, whole in ((heads.activity, activity), (heads.speaker, speaker)):
        assert part is not None
        state = whole.state_dict()
        part.load_state_dict({name: state[name] for name in part.state_dict()})
    return heads.eval().requires_grad_(False)


@pytest.fixture
def family(law, seed):
    """A CTC model, an activity model and an x-vector model on one encoder with random weights, and the heads."""
    torch.manual_seed(seed)
    config = law.config(**SIZES)
    model, activity, speaker = (
        kind(config).eval() for kind in (WavLMForCTC, WavLMForAudioFrameClassification, WavLMForXVector)
    )
    law.shake(model)
    for other in (activity, speaker):
        law.shake(other)
        other.wavlm.load_state_dict(model.wavlm.state_dict())
    return model, activity, speaker, heads_of(model, activity, speaker)


@torch.no_grad()
def test_a_stream_gives_what_the_whole_models_give(law, family, seed):
    """Random blocks and chunks, two streams side by side; activity of every frame, the vector of all of them."""
    model, activity, speaker, heads = family
    rng = random.Random(seed)
    context = StreamingContext(rng.randrange(0, 20), rng.randrange(1, 12), rng.randrange(0, 4))
    waves = [torch.randn(rng.randrange(16_000, 40_000)) * 0.1 for _ in range(2)]
    states = model.new_states(2, context)
    law.poison(states)
    for slot in range(2):
        states.reset(slot)
    fed, told = [0, 0], [[], []]
    carries, moments = [heads.speaker.empty_carry() for _ in waves], [moments_of(np.zeros((0, 20)))] * 2
    while any(fed[n] < len(waves[n]) or states.waiting(n) for n in range(2)):
        for n in range(2):
            count = min(rng.choice([1, 400, 3000]), len(waves[n]) - fed[n], states.room_samples(n))
            model.listen(states, [n], waves[n][None, fed[n] : fed[n] + count])
            fed[n] += count
        ended = [fed[n] == len(waves[n]) for n in range(2)]
        rows = [n for n in range(2) if states.waiting(n) >= context.step_frames or (ended[n] and states.waiting(n))]
        if not rows:
            continue
        out = model.step(states, rows, final=[ended[n] for n in rows], layers=True)
        assert out.hidden_states is not None
        for row, (n, frames) in enumerate(zip(rows, heads.read(out.hidden_states), strict=True)):
            frames = frames[: out.own_frames[row]]
            told[n].append(frames.activity)
            delayed, carries[n] = heads.speaker.delayed_step(frames.speaker, carries[n])
            moments[n] = joined(moments[n], moments_of(delayed))
    for n, wave in enumerate(waves):
        whole = activity(wave[None], context=context).logits.softmax(-1)[0, :, 1]
        assert law.difference(torch.from_numpy(np.concatenate(told[n])), whole) < 1e-4
        vector = speaker(wave[None], context=context).embeddings[0]
        assert law.difference(torch.from_numpy(heads.speaker.embedding(moments[n])), vector) < 1e-3
        assert max(map(len, carries[n])) <= heads.speaker.reach_frames


def test_statistics_in_parts_are_those_of_all(seed):
    torch.manual_seed(seed)
    frames = torch.randn(200, 7, dtype=torch.float64) * 3 + 50
    cuts = sorted({0, 200, *(int(c) for c in torch.randint(0, 200, (9,)))})
    total = moments_of(np.zeros((0, 7)))
    for first, last in pairwise(cuts):
        total = joined(total, moments_of(frames[first:last].numpy()))
    count, mean, squares = total
    pooled = np.concatenate([mean, np.sqrt(squares / (count - 1))])
    assert count == 200
    assert pooled == pytest.approx(statistics_pooling(frames[None], None)[0].numpy(), rel=1e-9)


def test_saved_heads_are_the_same_and_belong_to_their_encoder(family, tmp_path):
    model, _, _, heads = family
    assert VoiceHeads.find(tmp_path, model.config) is None
    heads.numbers = SpeakerNumbers(new_below=0.31)
    heads.about["figures"] = {"eer": 0.1}
    heads.save(tmp_path)
    found = VoiceHeads.find(tmp_path, model.config)
    assert found is not None
    assert (found.numbers, found.about, found.identity) == (heads.numbers, heads.about, heads.identity)
    for name, tensor in heads.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor.half().float())
    found.check(model.wavlm)
    found.check(model.to(torch.bfloat16).wavlm)  # computed in fewer digits it is the same encoder
    other = WavLMForCTC(model.config).wavlm
    with pytest.raises(CheckpointError, match=r"trained on another encoder.*train voices"):
        found.check(other)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / WEIGHTS).write_bytes(b"short"), "cannot be used"),
        (lambda f: (f / WEIGHTS).unlink(), "heads.safetensors"),
        (lambda f: (f / INDEX).write_text("{}"), "format None, this program reads 1"),
        (lambda f: _edit(f, "speaker", "tdnn_dim", [4, 4, 4]), "cannot be used.*size mismatch"),
        (lambda f: _edit(f, "speaker", "numbers", {"new_below": "much"}), "SpeakerNumbers.new_below is 'much'"),
        (lambda f: _edit(f, "speaker", "numbers", {"wrong": 1}), "cannot be used.*wrong"),
    ],
)
def test_broken_files_are_refused(family, tmp_path, damage, words):
    model, _, _, heads = family
    heads.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=words):
        VoiceHeads.find(tmp_path, model.config)


def _edit(folder: Path, part: str, name: str, value: object) -> None:
    index = json.loads((folder / INDEX).read_text())
    index[part][name] = value
    (folder / INDEX).write_text(json.dumps(index))


def test_parts_of_frames_and_missing_heads(family):
    frames = VoiceFrames(np.arange(5, dtype=np.float32), None)[1:3]
    assert frames.activity is not None
    assert frames.activity.tolist() == [1, 2]
    assert frames.speaker is None
    only = VoiceHeads(family[0].config.replace(**SIZES), speaker=False)
    read = only.read([torch.zeros(2, 3, 32)] * 3)
    assert [(r.activity.shape, r.speaker) for r in read if r.activity is not None] == [((3,), None)] * 2
    assert only.identity == ""
    with pytest.raises(ConfigurationError, match=r"SpeakerNumbers\.slope is True"):
        SpeakerNumbers(slope=True)

"""A user's own speech: a table of two columns, and the recipes that need no other data and name no corpus."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from transformers import WavLMConfig as HFConfig
from transformers import WavLMModel as HFModel

from wavlm_live.model.bundled import bundled_names, bundled_path, named
from wavlm_live.model.errors import ConfigurationError
from wavlm_live.model.training.batches import BatchPlan
from wavlm_live.model.training.commands import main
from wavlm_live.model.training.data import load_data
from wavlm_live.model.training.export import read_model
from wavlm_live.model.training.manifest import read_manifest, splits_of
from wavlm_live.model.training.settings import Stage, TrainSettings
from wavlm_live.streamer import Recogniser

from .conftest import WORDS, tone, write_manifest


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Forty recordings beside a table that says nothing but what is said in them."""
    rows = []
    for i in range(40):
        soundfile.write(tmp_path / f"{i}.wav", tone(i % len(WORDS), 0.5 + 0.01 * i), 16_000)
        rows.append((f"{i}.wav", WORDS[i % len(WORDS)]))
    return write_manifest(tmp_path / "mine.tsv", rows, ("file", "text"))


def test_some_are_held_out_the_same_ones_each_time(own: Path, tmp_path: Path) -> None:
    assert splits_of(own) == {"train"}
    first, _, _ = load_data(own, tmp_path / "cache", splits=("train", "dev"))
    again, _, _ = load_data(own, tmp_path / "cache", splits=("dev",))
    assert {u.corpus for u in first["train"]} == {"mine"}
    assert len(first["train"]) + len(first["dev"]) == 40
    assert 1 <= len(first["dev"]) <= 8
    assert again["dev"] == first["dev"]
    many = "\n".join(["file\ttext", *(f"{i}.wav\tyes" for i in range(40)), *(f"x{i}.wav\tno" for i in range(2000))])
    (tmp_path / "many.tsv").write_text(many)
    found, report = read_manifest(tmp_path / "many.tsv", splits=["dev"], held_out=0.05)
    assert len(found) == len(first["dev"])
    assert len(found) + report.refused["its sound is missing"] == pytest.approx(102, abs=30)


def test_who_names_dev_recordings_has_none_held_out(corpus: Path, tmp_path: Path) -> None:
    assert splits_of(corpus) == {"train", "dev"}
    found, _, _ = load_data(corpus, tmp_path / "cache", splits=("train", "dev"))
    assert [len(found[split]) for split in ("train", "dev")] == [24, 8]


def test_all_corpora_that_are_not_named(corpus: Path, tmp_path: Path) -> None:
    found, cache, _ = load_data(corpus, tmp_path / "cache", splits=("train", "dev"))

    def epoch(pool: dict[str, object]) -> Counter[str]:
        stage = Stage("s", ({"name": "p"} | pool,), steps=9, batch_s=4.0)  # type: ignore[arg-type]
        plan = BatchPlan(found["train"], cache, stage, seed=1)
        taken = [i for step in range(plan.epoch_batches(0)) for item in plan.items(step)[1] for i in item]
        return Counter(found["train"][i].corpus for i in taken)

    assert epoch({}) == {"a": 12, "b": 12}
    assert epoch({"corpora": {"b": 2, "*": 0.5}}) == {"a": 6, "b": 24}
    assert epoch({"corpora": {"*": 1}}) == epoch({"corpora": {"a": 1, "b": 1}})
    with pytest.raises(ConfigurationError, match="no recording of any corpus lasts 20"):
        epoch({"min_s": 20, "max_s": 30})


@pytest.mark.skipif(not bundled_names(), reason="no bundled model in this installation")
def test_a_bundled_model_by_name(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert named("english") == bundled_path("english")
    assert named("runs/english") == "runs/english"
    assert read_model("english").config.hidden_size == 256
    common = ["--manifest", str(own), "--cache", str(tmp_path / "cache")]
    assert main(["evaluate", "english", *common, "--json", str(tmp_path / "f.json")]) == 0
    assert "mine" in capsys.readouterr().out
    out = ["--out", str(tmp_path / "run"), "--steps", "2"]
    assert main(["ctc", "--start", "english", *common, *out]) == 0
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    adapt = TrainSettings.from_file("adapt")
    assert settings["peak_lr"] == adapt.peak_lr
    assert settings["model"]["hidden_size"] == 256
    # numbers of decoding go along, over another run that goes on from this one too, but not to another head
    again = ["--start", str(tmp_path / "run" / "last.pt"), "--out", str(tmp_path / "again"), "--steps", "1"]
    assert main(["ctc", *again, *common]) == 0
    assert main(["export", str(tmp_path / "again" / "last.pt"), "--out", str(tmp_path / "mine")]) == 0
    numbers = bundled_path("english") / "decoding.json"
    assert (tmp_path / "mine" / "decoding.json").read_bytes() == numbers.read_bytes()
    assert Recogniser.load(tmp_path / "mine").alphabet.prior == Recogniser.load().alphabet.prior
    anew = ["--start", "english", "--new-head", "--out", str(tmp_path / "anew"), "--steps", "1"]
    assert main(["ctc", *anew, *common]) == 0
    assert not (tmp_path / "anew" / "decoding.json").exists()


@pytest.mark.parametrize("normalisation", ["group", "layer"])
def test_from_an_encoder_to_words_live(normalisation: str, own: Path, tmp_path: Path) -> None:
    """As transformers wrote it, without a head: tuned with the usual recipe, exported, heard with."""
    config = HFConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, conv_dim=[8] * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, feat_extract_norm=normalisation,
        do_stable_layer_norm=normalisation == "layer",
    )  # fmt: skip
    HFModel(config).save_pretrained(tmp_path / "encoder")
    common = ["--manifest", str(own), "--cache", str(tmp_path / "cache")]
    out = ["--out", str(tmp_path / "run"), "--steps", "2"]
    assert main(["ctc", "--start", str(tmp_path / "encoder"), "--new-head", *common, *out]) == 0
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert settings["freeze"] == {"wavlm.feature_extractor": None, "wavlm": 5000}
    assert main(["export", str(tmp_path / "run" / "last.pt"), "--out", str(tmp_path / "mine")]) == 0
    recogniser = Recogniser.load(tmp_path / "mine")
    assert {"default", "low"} <= set(recogniser.contexts)
    sound = np.concatenate([soundfile.read(own.parent / f"{i}.wav", dtype="float32")[0] for i in range(4)])
    session = recogniser.alone()
    assert session.feed(sound) + session.finish()  # a head that has learned nothing says something, at random
    figures = []
    for through in ("forward", "stream"):
        answer = ["--context", "50,8,4", "--through", through, "--json", str(tmp_path / "f.json")]
        assert main(["evaluate", str(tmp_path / "mine"), *common, *answer]) == 0
        figures.append(json.loads((tmp_path / "f.json").read_text())["contexts"]["50,8,4"]["rates"])
    assert figures[0] == figures[1]

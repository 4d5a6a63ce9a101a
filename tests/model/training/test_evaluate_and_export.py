"""Measuring and exporting: known error rates, the stream says what the batch says, the folder loads elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from wavlm_live.model.context import StreamingContext
from wavlm_live.model.ctc import WavLMForCTC
from wavlm_live.model.errors import CheckpointError, ConfigurationError
from wavlm_live.model.training.cache import SoundCache
from wavlm_live.model.training.commands import main
from wavlm_live.model.training.ctc import CTCTrainer
from wavlm_live.model.training.evaluate import error_rates, measure, transcribe_batches, transcribe_stream
from wavlm_live.model.training.export import export, load_model
from wavlm_live.model.training.letters import VOCABULARY
from wavlm_live.model.training.manifest import Utterance
from wavlm_live.model.training.run_folder import LAST, RunFolder, load_checkpoint
from wavlm_live.model.training.settings import TrainSettings

Data = tuple[list[Utterance], list[Utterance], SoundCache]


@pytest.fixture
def checkpoint(tmp_path: Path, data: Data, settings: TrainSettings) -> Path:
    """The last checkpoint of a run of six steps."""
    run = CTCTrainer(settings, RunFolder(tmp_path / "run"), data[0], data[2])
    with torch.no_grad():  # fresh heads say nothing but one letter: make them talk
        run.model.lm_head.weight.normal_(0, 2.0)
        run.average = [p.detach().clone() for p in run.model.parameters()]
    run.run(most_steps=6)
    return tmp_path / "run" / LAST


def test_error_rates_of_known_texts(data: Data) -> None:
    utterances = data[1][:4]
    texts = [u.text for u in utterances]
    texts[0] = ""
    texts[1] += " more"
    rates = error_rates(utterances, texts)
    assert rates["all"]["wer"] == pytest.approx(2 / 4)
    assert rates["all"]["exact"] == pytest.approx(0.5)
    assert set(rates) == {"a", "b", "all"}
    assert rates["a"]["words"] == rates["b"]["words"] == 2
    assert rates["a"]["cer"] == pytest.approx(
        len(utterances[0].text) / sum(len(u.text) for u in utterances if u.corpus == "a")
    )


def test_stream_and_batches_say_the_same(checkpoint: Path, data: Data) -> None:
    model = load_model(checkpoint)
    for context in (StreamingContext(20, 4, 4), StreamingContext(8, 16, 0)):
        batches = transcribe_batches(model, data[1], data[2], context, batch_s=3.0)
        assert any(batches)
        assert transcribe_stream(model, data[1], data[2], context, slots=3, block_samples=777) == batches
    with pytest.raises(ConfigurationError, match="through"):
        measure(model, data[1], data[2], None, through="stream")
    with pytest.raises(ConfigurationError, match="no utterance"):
        measure(model, [], data[2], None)


def test_exported_folder_is_the_averaged_model(checkpoint: Path, tmp_path: Path) -> None:
    contexts = {"default": "20,8,0", "low": "20,4,0"}
    folder = export(checkpoint, tmp_path / "out", contexts=contexts)
    model = WavLMForCTC.from_pretrained(folder, dtype=torch.float32)
    average = load_checkpoint(checkpoint)["average"]
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, average[name].half().float(), rtol=0, atol=0)
    assert json.loads((folder / "streaming.json").read_text()) == {"contexts": contexts}
    assert json.loads((folder / "vocab.json").read_text()) == VOCABULARY
    assert json.loads((folder / "preprocessor_config.json").read_text())["do_normalize"] is False
    assert not list(folder.glob(".*"))


def test_transformers_reads_the_folder(checkpoint: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = export(checkpoint, tmp_path / "out", contexts={"default": "20,8,0"}, dtype="float32")
    theirs = transformers.WavLMForCTC.from_pretrained(folder).eval()
    ours = load_model(checkpoint)
    samples = 0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(samples).logits, theirs(samples).logits, rtol=1e-4, atol=1e-4)
    tokenizer = transformers.Wav2Vec2CTCTokenizer.from_pretrained(folder)
    assert tokenizer.decode([3, 3, 0, 3, 1, 2, 4]) == "aa 'b"
    extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(folder)
    assert extractor.sampling_rate == 16000
    assert not extractor.do_normalize


def test_export_refuses_what_it_cannot_write(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="named 'default'"):
        export(checkpoint, tmp_path / "out", contexts={"low": "20,4,0"})
    state = load_checkpoint(checkpoint)
    state["average"]["lm_head.bias"].fill_(1e6)
    RunFolder(tmp_path).save("large.pt", state)
    with pytest.raises(CheckpointError, match=r"lm_head\.bias has values too large"):
        export(tmp_path / "large.pt", tmp_path / "out", contexts={"default": "20,4,0"})
    assert not (tmp_path / "out").exists()


def test_command_line_from_manifest_to_figures(
    corpus: Path, tmp_path: Path, recipe: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.json").write_text(json.dumps(recipe))
    run, cache = str(tmp_path / "run"), str(tmp_path / "cache")
    common = ["--manifest", str(corpus), "--cache", cache]
    assert main(["ctc", *common, "--recipe", str(tmp_path / "r.json"), "--out", run, "--steps", "2"]) == 0
    assert main(["ctc", *common, "--recipe", str(tmp_path / "r.json"), "--out", run]) == 1
    assert main(["export", f"{run}/last.pt", "--out", str(tmp_path / "model")]) == 0
    for model in (f"{run}/last.pt", str(tmp_path / "model")):
        figures = tmp_path / "figures.json"
        assert main(["evaluate", model, *common, "--context", "20,8,0", "full", "--json", str(figures)]) == 0
        result = json.loads(figures.read_text())
        assert set(result["contexts"]) == {"20,8,0", "full"}
        assert result["contexts"]["full"]["rates"]["all"]["words"] == 8
        assert result["machine"]["threads"] >= 1
    out = capsys.readouterr().out
    assert "WER / CER %" in out
    assert "20,8,0" in out

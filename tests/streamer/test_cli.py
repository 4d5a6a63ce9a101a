"""The command line: usage, exit codes, one sentence for each error, models, what stdout cannot take."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from wavlm_live.model.errors import DeviceError
from wavlm_live.streamer import cli
from wavlm_live.streamer.recogniser import Recogniser

DIGIT = "digit_four.opus"
TRANSCRIBE = ("transcribe", "x.wav")


def test_help_imports_nothing_heavy():
    """Torch alone costs a second; whoever asks for help should not wait for it."""
    script = (
        "import sys; from wavlm_live.streamer.cli import main; main(['transcribe', '--help']);"
        "print(sorted({'torch', 'numpy', 'av', 'huggingface_hub', 'soxr', 'sounddevice'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "--realtime" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_missing_file_is_told_before_torch_is_imported(tmp_path):
    script = (
        "import sys; from wavlm_live.streamer.cli import main; code = main(['transcribe', 'missing.wav']);"
        "print(code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("1 False\n", "wavlm-live: error: missing.wav does not exist\n")


@pytest.mark.parametrize("name", ["transcribe", "listen"])
def test_every_option_is_documented(command, name):
    page = (Path(__file__).resolve().parents[2] / "docs" / "commands.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"(?<=\s)--[a-z-]+", command(name, "--help").out)) - {"--help"}
    assert "--silence-ms" in shown
    assert {option for option in shown if f"`{option}`" not in page} == set()


def test_version(command):
    answer = command("--version")
    assert (answer.code, answer.out) == (0, f"wavlm-live {metadata.version('wavlm-live')}\n")


def test_no_arguments_show_the_help(command):
    answer = command()
    assert answer.code == 2
    assert all(name in answer.out for name in ("transcribe", "listen", "devices", "models", "doctor", "train"))


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("nonsense",), "No such command 'nonsense'"),
        (("transcribe",), "Missing argument"),
        ((*TRANSCRIBE, "--nonsense"), "No such option: --nonsense"),
        ((*TRANSCRIBE, "--device", "tpu"), "'tpu' is no compute device; expected auto, cpu, cuda or cuda:N"),
        ((*TRANSCRIBE, "--format", "docx"), "docx"),
        ((*TRANSCRIBE, "--silence-ms", "5"), "--silence-ms"),
        ((*TRANSCRIBE, "--channel", "-1"), "--channel"),
        ((*TRANSCRIBE, "--context", "low", "--chunk-ms", "320"), "say the same twice"),
        ((*TRANSCRIBE, "-o", "text.docx"), "its suffix must be one of .txt, .srt"),
        (("transcribe", "a.wav", "b.wav", "-o", "text.txt"), "2 recordings cannot go into the one file"),
        (("transcribe", "a.wav", "b.wav", "-f", "srt"), "give a folder, --output FOLDER"),
        (("transcribe", "-", "-"), "stdin (-) was given twice"),
        (("models", "info", "a", "b"), "unexpected extra argument"),
    ],
)
def test_usage_errors_end_with_2(command, arguments, part):
    answer = command(*arguments)
    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.splitlines()[-1].startswith("wavlm-live: error: ")
    assert part in answer.err


@pytest.mark.parametrize(
    ("context", "part"),
    [("medium", "one of this model's: default, low"), ("100,0,0", "chunk_frames is 0")],
)
def test_a_context_that_cannot_be_is_a_usage_error(command, audio_folder, context, part):
    answer = command("transcribe", audio_folder / DIGIT, "--context", context)
    assert (answer.code, answer.out) == (2, "")
    assert part in answer.err


@pytest.mark.parametrize(
    ("arguments", "context"),
    [
        ((), "100,16,4"),
        (("--context", "low"), "100,4,0"),
        (("--context", "50,8,2"), "50,8,2"),
        (("--chunk-ms", "160", "--right-ms", "0"), "100,8,0"),
        (("--left-ms", "1000"), "50,16,4"),
    ],
)
def test_contexts_by_name_frames_and_milliseconds(command, audio_folder, arguments, context):
    answer = command("transcribe", audio_folder / DIGIT, "-f", "jsonl", *arguments)
    assert answer.code == 0
    assert json.loads(answer.out.splitlines()[0])["context"] == context


def test_environment_sets_options_and_the_command_line_wins(command, audio_folder, monkeypatch):
    monkeypatch.setenv("WAVLM_LIVE_FORMAT", "json")
    answer = command("transcribe", audio_folder / DIGIT)
    assert json.loads(answer.out)["model"].endswith("tiny")
    assert command("transcribe", audio_folder / DIGIT, "-f", "vtt").out.startswith("WEBVTT")


# Models and devices that cannot be used ----------------------------------------------------------------------


def test_no_bundled_model_is_an_error(command, audio_folder, monkeypatch, tmp_path):
    monkeypatch.setattr("wavlm_live.model.bundled._HERE", tmp_path)
    answer = command("transcribe", audio_folder / DIGIT, model=False)
    assert (answer.code, answer.out) == (1, "")
    assert "bundles no model" in answer.err


def test_unknown_model(command, audio_folder):
    answer = command("transcribe", audio_folder / DIGIT, "--model", "no/such-model")
    assert (answer.code, answer.out) == (1, "")
    assert "there is no folder 'no/such-model'" in answer.err


def test_checkpoint_with_wrong_shapes(command, audio_folder, tiny_model, tmp_path):
    wrong = shutil.copytree(tiny_model, tmp_path / "wrong")
    config = json.loads((wrong / "config.json").read_text())
    (wrong / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))
    answer = command("transcribe", audio_folder / DIGIT, "--model", wrong)
    assert (answer.code, answer.out) == (1, "")
    assert len(answer.err.splitlines()) == 1
    assert "intermediate_dense.weight is [128, 64], the model has [96, 64]" in answer.err


def test_no_gpu(command, audio_folder, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    answer = command("transcribe", audio_folder / DIGIT, "--device", "cuda")
    assert (answer.code, answer.out) == (1, "")
    assert "there is no CUDA device" in answer.err


def test_verbose_adds_the_traceback(capsys, audio_folder, tmp_path):
    code = cli.main(["transcribe", str(audio_folder / DIGIT), "--model", str(tmp_path), "--verbose"])
    err = capsys.readouterr().err
    assert code == 1
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("wavlm-live: error: ")


def test_messages_cannot_steer_the_terminal(command):
    answer = command("transcribe", "\x1b[2Jevil\u202e\udcff.wav")
    assert answer.code == 1
    assert "\\x1b[2Jevil\\u202e\\udcff.wav does not exist" in answer.err


def test_mistakes_of_the_program_are_not_hidden(monkeypatch, audio_folder):
    def mistake(*_, **__):
        raise KeyError("mistake")

    monkeypatch.setattr(Recogniser, "load", mistake)
    with pytest.raises(KeyError, match="mistake"):
        cli.main(["transcribe", str(audio_folder / DIGIT)])


def test_ctrl_c_while_loading(command, audio_folder, monkeypatch):
    import signal

    monkeypatch.setattr(Recogniser, "load", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    answer = command("transcribe", audio_folder / DIGIT)
    assert (answer.code, answer.out, answer.err) == (130, "", "")


# Stdout ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", [("transcribe", DIGIT), ("models", "info"), ("--help",)])
def test_full_disk_behind_stdout(command, audio_folder, monkeypatch, tiny_model, arguments):
    places = {DIGIT: audio_folder / DIGIT, "info": "info"}
    arguments = [places.get(a, a) for a in arguments] + ([tiny_model] if "info" in arguments else [])
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        answer = command(*arguments)
    assert answer.code == 1
    assert len(answer.err.splitlines()) == 1
    assert "No space left on device" in answer.err


def test_stdout_closed(command, audio_folder, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    answer = command("transcribe", audio_folder / DIGIT)
    assert answer.code == 1
    assert "started with standard output closed" in answer.err


def test_a_reader_that_leaves_is_no_error(tiny_model, audio_folder):
    """As `wavlm-live transcribe ... | head -1`: quiet, whatever Python does with stdout at its end."""
    program = [sys.executable, "-m", "wavlm_live.streamer.cli", "transcribe", "--model", str(tiny_model)]
    running = subprocess.Popen(
        [*program, str(audio_folder / DIGIT)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    assert running.stderr is not None
    running.stdout.close()
    assert running.stderr.read() == ""
    assert running.wait() == 1
    running.stderr.close()


# Models, devices, train --------------------------------------------------------------------------------------


@pytest.fixture
def hub_cache(tiny_model, tmp_path, monkeypatch) -> Path:
    """A cache of the hub that holds the tiny model as example/tiny, and a repository that is no WavLM."""
    import huggingface_hub.constants

    for name, source in {"tiny": tiny_model, "other": None}.items():
        repository = tmp_path / f"models--example--{name}"
        snapshot = repository / "snapshots" / ("0" * 40)
        (repository / "refs").mkdir(parents=True)
        (repository / "blobs").mkdir()
        (repository / "refs" / "main").write_text("0" * 40)
        if source:
            shutil.copytree(source, snapshot)
        else:
            snapshot.mkdir(parents=True)
            (snapshot / "config.json").write_text('{"model_type": "bert"}')
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", str(tmp_path), raising=False)
    return tmp_path


def test_models_lists_the_cache(command, hub_cache, monkeypatch, tmp_path):
    monkeypatch.setattr("wavlm_live.model.bundled._HERE", tmp_path)
    answer = command("models")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.splitlines()[0] == "example/tiny\tcached\tWavLMForCTC\t0.4 MB"
    assert answer.out.splitlines()[1].startswith("english\tbundled\tlanguage model (--lm)\t")


def test_models_without_any(command, monkeypatch, tmp_path):
    monkeypatch.setattr("wavlm_live.model.bundled._HERE", tmp_path)
    monkeypatch.setattr("wavlm_live.streamer.reports.cached_models", list)
    answer = command("models")
    assert answer.code == 0
    assert "WavLM" not in answer.out
    assert "models pull" in answer.err


@pytest.mark.parametrize("name", ["folder", "example/tiny"])
def test_models_info(command, hub_cache, tiny_model, name):
    answer = command("models", "info", tiny_model if name == "folder" else name)
    assert answer.code == 0
    facts = dict(line.split(None, 1) for line in answer.out.splitlines() if not line.startswith("context"))
    assert facts["parameters"] == "92,645"
    assert facts["weights"] == "0.4 MB F32 in 1 file(s)"
    assert facts["tokens"].startswith("29: <pad> | ' a b c")
    assert "context low      100,4,0 frames, text certain after 80 ms" in answer.out


def test_models_info_of_what_is_not_here(command, hub_cache):
    answer = command("models", "info", "example/missing")
    assert (answer.code, answer.out) == (1, "")
    assert "fetch it with `wavlm-live models pull example/missing`" in answer.err


def test_pull_of_a_cached_model_needs_no_network(command, hub_cache):
    answer = command("models", "pull", "example/tiny")
    assert (answer.code, answer.err) == (0, "")
    assert "architecture     WavLMForCTC" in answer.out


def test_pull_offline(command, hub_cache):
    answer = command("models", "pull", "example/missing")
    assert (answer.code, answer.out) == (1, "")
    assert "HF_HUB_OFFLINE is set" in answer.err


def test_pull_of_another_kind_of_model(command, hub_cache):
    answer = command("models", "pull", "example/other")
    assert (answer.code, answer.out) == (1, "")
    assert "describes a model of type 'bert', expected 'wavlm'" in answer.err


def test_devices_without_a_microphone(command, monkeypatch):
    monkeypatch.setattr("wavlm_live.streamer.sources.devices.list_input_devices", list)
    answer = command("devices")
    assert (answer.code, answer.out) == (0, "")
    assert "no input device" in answer.err


def test_devices_without_portaudio(command, monkeypatch):
    def missing():
        raise DeviceError("microphones need the PortAudio library")

    monkeypatch.setattr("wavlm_live.streamer.sources.devices.list_input_devices", missing)
    answer = command("devices")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err == "wavlm-live: error: microphones need the PortAudio library\n"


def test_a_wish_for_kernels_that_is_not_understood(command, audio_folder, monkeypatch):
    monkeypatch.setenv("WAVLM_LIVE_KERNELS", "cuda")
    answer = command("transcribe", str(audio_folder / "digits_and_commands.flac"))
    assert (answer.code, answer.out) == (1, "")
    assert "WAVLM_LIVE_KERNELS is 'cuda', expected auto, triton, torch" in answer.err


def test_train_passes_its_options_on(command):
    shown = command("train", "--help").out
    for name in ("ctc", "pretrain", "heads", "evaluate", "export", "align", "synthesize"):
        assert name in shown
    assert "--through" in command("evaluate", "--help").out
    assert command("train", "ctc").code == 2

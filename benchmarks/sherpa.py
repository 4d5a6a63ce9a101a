"""The bundled model in sherpa-onnx beside the same model here: the same speech in turn, and whether the texts agree.

    pip install sherpa-onnx onnx
    python benchmarks/sherpa.py --rounds 3 --clock cpu

sherpa-onnx has a recogniser that takes raw samples and gives CTC logits (its Omnilingual ASR kind, of wav2vec2's
shape), and no streaming one that fits: its streaming kind for raw samples (T-one) is fixed to 300 ms at 8 kHz, 2400
samples, which is no whole number of these frames of 320. So it hears each recording at once. The weights are put into
transformers' WavLM, which computes the same function, and exported from there in float32; `ours, whole` is that
function in this package, `offline` and `stream` are what `transcribe` and a live session do, chunk by chunk under the
default context. sherpa-onnx brings samples to mean 0 and deviation 1 first; the export takes them back to `LEVEL`,
and all sides are given recordings of that level, so that the same function gives the same text.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from machine import alternate, write

from wavlm_live.streamer import Final, Recogniser, SessionSettings, SpeechRules
from wavlm_live.streamer.cpu_choice import adopt, choose_for_cpu
from wavlm_live.streamer.sources import FileSource

AUDIO = Path(__file__).resolve().parent.parent / "tests" / "audio"
LEVEL = 0.06
"""Standard deviation that all recordings are brought to, that of ordinary speech."""
SETTINGS = SessionSettings(partial_hop_ms=0, speech=SpeechRules(detector="model", words_need_voice=False))
SIDES = ("ours, stream", "ours, offline", "ours, whole", "sherpa-onnx, whole")


def export(folder: Path) -> tuple[Path, Path]:
    """Write the bundled model as `model.onnx` and `tokens.txt`, as sherpa-onnx wants them; the two files.

    The graph takes samples `[batch, samples]` and gives logits `[batch, frames, labels]`.
    """
    from transformers import WavLMConfig as PeerConfig
    from transformers import WavLMForCTC as PeerModel

    warnings.filterwarnings("ignore")
    recogniser = Recogniser.load(device="cpu")
    skip = ("id2label", "label2id", "model_type")
    values = recogniser.model.config.to_dict().items()
    peer = PeerModel(PeerConfig(**{k: v for k, v in values if k not in skip})).eval()
    peer.load_state_dict(recogniser.model.state_dict())

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.peer = peer

        def forward(self, samples: torch.Tensor) -> torch.Tensor:
            return self.peer(samples * LEVEL).logits

    model, tokens = folder / "model.onnx", folder / "tokens.txt"
    torch.onnx.export(
        Logits(),
        (torch.randn(1, 48_000),),
        str(model),
        input_names=["samples"],
        output_names=["logits"],
        dynamic_axes={"samples": {0: "batch", 1: "samples"}, "logits": {0: "batch", 1: "frames"}},
        opset_version=17,
        dynamo=False,
    )
    alphabet = recogniser.alphabet
    names = list(alphabet.labels)
    names[alphabet.blank_id] = "<blk>"
    if alphabet.delimiter_id is not None:
        names[alphabet.delimiter_id] = "\u2581"  # how the peer writes the border of words
    tokens.write_text("".join(f"{name} {number}\n" for number, name in enumerate(names)), encoding="utf-8")
    return model, tokens


def recordings() -> list[np.ndarray]:
    """The speech in tests/audio, with mean 0 and the deviation `LEVEL`."""
    files = sorted([*AUDIO.glob("*.opus"), *AUDIO.glob("*.flac")])
    sounds = [np.concatenate(list(FileSource(path))) for path in files]
    return [((sound - sound.mean()) * (LEVEL / sound.std())).astype(np.float32) for sound in sounds]


def make(side: str, folder: Path) -> Callable[[np.ndarray], str]:
    """A function from a recording to its text, on one thread."""
    torch.set_num_threads(1)
    if side.startswith("sherpa"):
        import sherpa_onnx  # pyright: ignore[reportMissingImports]

        peer = sherpa_onnx.OfflineRecognizer.from_omnilingual_asr_ctc(
            model=str(folder / "model.onnx"), tokens=str(folder / "tokens.txt"), num_threads=1
        )

        def hear(samples: np.ndarray) -> str:
            stream = peer.create_stream()
            stream.accept_waveform(16_000, samples)
            peer.decode_stream(stream)
            return " ".join(stream.result.text.split())

        return hear
    recogniser = Recogniser.load(device="cpu")
    alphabet = recogniser.alphabet
    if side == "ours, whole":

        def whole(samples: np.ndarray) -> str:
            with torch.inference_mode():
                ids = recogniser.model(torch.from_numpy(samples)[None]).logits[0].argmax(-1).tolist()
            kept = [b for a, b in zip([alphabet.blank_id, *ids], ids, strict=False) if a != b]
            return " ".join("".join(" " if i == alphabet.delimiter_id else alphabet.labels[i] for i in kept).split())

        return whole
    recogniser.compute = adopt(recogniser.model, choose_for_cpu(recogniser.model))

    def ours(samples: np.ndarray) -> str:
        listener = recogniser.alone(SETTINGS) if side == "ours, stream" else recogniser.offline(SETTINGS)
        events = [*listener.feed(samples), *listener.finish()]
        return " ".join(event.text for event in events if isinstance(event, Final))

    return ours


def memory_mb(side: str, folder: Path) -> float:
    """The most memory that a process needs which hears all recordings once in this way."""
    command = [sys.executable, __file__, "--memory-of", side, "--folder", str(folder)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--folder", type=Path, help="where the export lies, or shall lie; default: a temporary one")
    parser.add_argument("--memory-of", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        hear = make(options.memory_of, options.folder)
        for sound in recordings():
            hear(sound)
        status = Path("/proc/self/status").read_text()  # getrusage would tell the parent's peak, if that is higher
        print(int(status.split("VmHWM:")[1].split()[0]) / 1000)
        return
    import sherpa_onnx  # pyright: ignore[reportMissingImports]

    if options.clock == "cpu":
        time.perf_counter = time.process_time  # what `alternate` measures with
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        export(folder)
        sounds = recordings()
        seconds = sum(map(len, sounds)) / 16_000
        hearing = {side: make(side, folder) for side in SIDES}
        texts = {side: [hear(sound) for sound in sounds] for side, hear in hearing.items()}
        sides = {side: lambda hear=hear: [hear(sound) for sound in sounds] for side, hear in hearing.items()}
        times = alternate(sides, options.rounds)
        rows = []
        for side in SIDES:
            same = sum(a == b for a, b in zip(texts[side], texts["sherpa-onnx, whole"], strict=True))
            rows.append(
                {
                    "side": side,
                    "speed": round(seconds / statistics.median(times[side]), 2),
                    "peak_mb": round(memory_mb(side, folder)),
                    "same_text": f"{same} of {len(sounds)}",
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    version = sherpa_onnx.__version__
    write("sherpa", {"clock": options.clock, "seconds": round(seconds, 1), "sherpa-onnx": version, "rows": rows})


if __name__ == "__main__":
    main()

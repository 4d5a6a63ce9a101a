"""`wavlm-live doctor`: what is there, what is missing, and what to install."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np

from ..model.errors import DeviceError, WavLMLiveError

Status = Literal["ok", "absent", "broken"]
"""There and working; not there, but not needed either; needed and missing."""

FORMATS = {"wav": "WAV", "flac": "FLAC", "mp3": "MP3", "mov": "M4A", "ogg": "Ogg", "matroska": "WebM"}
"""FFmpeg's demuxers and what people call them."""
CODECS = {"pcm_s16le": "PCM", "flac": "FLAC", "mp3": "MP3", "aac": "AAC", "opus": "Opus", "vorbis": "Vorbis"}
CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16")


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    status: Status
    found: str
    advice: str = ""
    """What to do where it is not ok."""


def examine(model: str | None = None, device: str = "auto") -> Iterator[Check]:
    """Look at everything, one after the other; the slow checks come last.

    Args:
        model: to try out, as for `--model`; None is the default one.
        device: to try it on.
    """
    yield python()
    found = torch_library()
    yield found
    if found.status == "ok":
        yield from (check() for check in (cpu, cuda))
        yield from kernel_paths()
    yield from (check() for check in (triton, decoder, resampler, microphones, hub_cache))
    if found.status == "ok":
        yield try_model(model, device)


def python() -> Check:
    """The interpreter and the machine."""
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}"
    return Check("Python", "ok", found)


def torch_library() -> Check:
    """torch, and how many threads it takes."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return Check("torch", "broken", f"cannot be imported: {_line(error)}", "pip install torch")
    return Check("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} of {os.cpu_count()} CPU threads")


def cpu() -> Check:
    """The instruction sets that speed a CPU step up."""
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    flags = set()
    if (info := Path("/proc/cpuinfo")).is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.lower().startswith(("flags", "features")):
                flags = set(line.split(":", 1)[1].split())
                break
    there = [flag for flag in CPU_FLAGS if flag in flags]
    return Check("CPU", "ok", f"torch uses {capability}" + (f"; it has {', '.join(there)}" if there else ""))


def cuda() -> Check:
    """A GPU that torch can use."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Check("CUDA", "ok", f"{torch.version.cuda}: {', '.join(names)}")
    if torch.version.cuda is None:
        why, advice = "this torch is built without it", "for a GPU, install a CUDA build of torch"
        return Check("CUDA", "absent", f"{why}; computing on the CPU", advice)
    return Check("CUDA", "absent", "no GPU or driver found; computing on the CPU", "for a GPU, install its driver")


def triton() -> Check:
    """The compiler of GPU kernels."""
    try:
        return Check("Triton", "ok", metadata.version("triton"))
    except metadata.PackageNotFoundError:
        return Check("Triton", "absent", "not installed", "only of use with a GPU; CUDA builds of torch bring it")


def kernel_paths() -> Iterator[Check]:
    """Which implementation of each operation with kernels of its own runs here, and why."""
    from ..kernels import dispatch

    try:
        for choice in dispatch.report():
            yield Check("kernels", "ok", str(choice))
    except ValueError as error:
        yield Check("kernels", "broken", str(error), f"set {dispatch.ALL} to auto, triton or torch, or not at all")


def decoder() -> Check:
    """FFmpeg's libraries inside PyAV; the program ffmpeg is not needed."""
    try:
        import av
        import av.codec
    except (ImportError, OSError) as error:
        return Check("sound files", "broken", f"PyAV cannot be imported: {_line(error)}", "pip install av")
    demuxers = {name for entry in av.formats_available for name in entry.split(",")}
    kinds = [shown for name, shown in FORMATS.items() if name in demuxers]
    codecs = [shown for name, shown in CODECS.items() if name in av.codecs_available]
    lacking = [s for n, s in FORMATS.items() if n not in demuxers]
    lacking += [s for n, s in CODECS.items() if n not in av.codecs_available]
    found = f"PyAV {av.__version__}: {', '.join(kinds)}; codecs {', '.join(codecs)}"
    if lacking:
        return Check("sound files", "absent", f"{found}; without {', '.join(lacking)}", "pip install --upgrade av")
    return Check("sound files", "ok", found)


def resampler() -> Check:
    """soxr."""
    try:
        import soxr
    except (ImportError, OSError) as error:
        return Check("resampler", "broken", f"soxr cannot be imported: {_line(error)}", "pip install soxr")
    return Check("resampler", "ok", f"soxr {soxr.__version__}")


def microphones() -> Check:
    """PortAudio, and the input devices that it sees."""
    try:
        from .sources.devices import list_input_devices

        devices = list_input_devices()
    except DeviceError as error:
        what, _, advice = str(error).partition(": ")
        return Check("microphone", "absent", f"{what} (transcribe works without)", advice)
    except ImportError as error:
        return Check("microphone", "broken", _line(error), "pip install sounddevice av soxr")
    if not devices:
        return Check(
            "microphone", "absent", "PortAudio sees no input device", "plug one in, or start PulseAudio or PipeWire"
        )
    default = next((d.name for d in devices if d.is_default), "none is the default")
    return Check("microphone", "ok", f"{len(devices)} input device(s): {default}")


def hub_cache() -> Check:
    """Where downloaded models are kept, and whether they may be fetched."""
    try:
        from huggingface_hub import constants
    except ImportError as error:
        return Check("hub cache", "broken", _line(error), "pip install huggingface_hub")
    folder = Path(constants.HF_HUB_CACHE)
    nearest = next(p for p in (folder, *folder.parents) if p.exists())
    state = "" if folder.exists() else " (not made yet)"
    if constants.HF_HUB_OFFLINE:
        state += ", offline: HF_HUB_OFFLINE is set"
    if not os.access(nearest, os.W_OK):
        return Check("hub cache", "absent", f"{folder}: not writable", "set HF_HOME to a folder that is")
    free_gb = shutil.disk_usage(nearest).free / 1e9
    return Check("hub cache", "ok", f"{folder}{state}, {free_gb:.0f} GB free")


def try_model(model: str | None, device: str) -> Check:
    """Load the model and let it hear a second of noise."""
    try:
        from .events import SAMPLE_RATE
        from .recogniser import Recogniser
        from .session_settings import SessionSettings

        recogniser = Recogniser.load(model, device, "auto", threads="auto")
        threads = recogniser.thread_choice()
        session = recogniser.alone(SessionSettings(partial_hop_ms=0))
        context = recogniser.contexts["default"]
        second = np.random.default_rng(0).normal(0, 0.01, SAMPLE_RATE).astype(np.float32)
        session.feed(np.tile(second, 1 + context.latency_ms // 1000))  # the first steps prepare memory and code
        session.feed(second)
        started_s = time.perf_counter()
        repeats = 3
        for _ in range(repeats):
            session.feed(second)
        factor = (time.perf_counter() - started_s) / repeats
    except WavLMLiveError as error:
        advice = "give --model a folder or a hub id" if model is None else ""
        return Check("model", "broken", str(error), advice)
    except ImportError as error:
        return Check("model", "broken", _line(error), "install what is missing above")
    found = f"{recogniser.name} on {recogniser.device}: {factor:.3f} s of computing a second of sound (chunks of "
    found += f"{context.chunk_ms} ms), in {recogniser.compute}"
    if threads is not None:
        found += f"; threads: {threads}"
    if factor > 1:
        return Check("model", "absent", found, "too slow for live text; try longer chunks, or a smaller model")
    return Check("model", "ok", found)


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

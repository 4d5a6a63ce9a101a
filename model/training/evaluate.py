"""Word and character error rates of a CTC model, greedy, through the streaming computation.

`forward(context=)` computes what the stream computes, for whole batches, so it is the fast way to measure;
`through="stream"` uses `listen` and `step` themselves and gives the same text.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..context import StreamingContext
from ..errors import ConfigurationError
from .batches import by_length, collate
from .cache import RATE, SoundCache
from .letters import decode
from .manifest import Utterance
from .run_folder import machine, write_atomically

log = logging.getLogger(__name__)


def transcribe_batches(
    model: Any,
    utterances: Sequence[Utterance],
    cache: SoundCache,
    context: StreamingContext | None,
    *,
    device: torch.device | str = "cpu",
    bf16: bool = False,
    batch_s: float = 120.0,
) -> list[str]:
    """Greedy text of each utterance by `model.forward(context=)`, in batches of similar length."""
    texts = [""] * len(utterances)
    seconds = np.array([cache.samples(u.file) / RATE for u in utterances])
    for members in by_length(seconds, batch_s, 128):
        chosen = [utterances[i] for i in members]
        batch = collate([cache.wave(u.file) for u in chosen], [u.text for u in chosen], []).to(torch.device(device))
        with (
            torch.inference_mode(),
            torch.autocast(batch.input_values.device.type, torch.bfloat16, enabled=bf16),
        ):
            logits = model(batch.input_values, attention_mask=batch.attention_mask, context=context).logits
        best = logits.argmax(-1).cpu()
        frames = model.feature_lengths(batch.sample_lengths).tolist()
        for i, ids, length in zip(members, best, frames, strict=True):
            texts[i] = decode(ids[: int(length)].numpy())
    return texts


def transcribe_stream(
    model: Any,
    utterances: Sequence[Utterance],
    cache: SoundCache,
    context: StreamingContext,
    *,
    device: torch.device | str = "cpu",
    slots: int = 8,
    block_samples: int = 1600,
) -> list[str]:
    """Greedy text of each utterance by `listen` and `step`: blocks of 0.1 s, several streams at once."""
    texts: list[str] = []
    for start in range(0, len(utterances), slots):
        group = utterances[start : start + slots]
        texts += _stream_group(model, [cache.wave(u.file) for u in group], context, torch.device(device), block_samples)
    return texts


@torch.inference_mode()
def _stream_group(
    model: Any, waves: list[np.ndarray], context: StreamingContext, device: torch.device, block_samples: int
) -> list[str]:
    states = model.new_states(len(waves), context, device=device)
    ids: list[list[int]] = [[] for _ in waves]

    def step(slots: list[int], *, final: bool) -> None:
        output = model.step(states, slots, final=final)
        best = output.logits.argmax(-1).cpu()
        for row, slot in enumerate(slots):
            ids[slot] += best[row, : output.own_frames[row]].tolist()

    for at in range(0, max(len(w) for w in waves), block_samples):
        slots = [i for i, w in enumerate(waves) if at < len(w)]
        blocks = [waves[i][at : at + block_samples] for i in slots]
        lengths = [len(b) for b in blocks]
        samples = np.zeros((len(blocks), max(lengths)), np.float32)
        for row, block in zip(samples, blocks, strict=True):
            row[: len(block)] = block
        model.listen(states, slots, torch.from_numpy(samples).to(device), lengths)
        while ready := [i for i in slots if states.waiting(i) >= context.step_frames]:
            step(ready, final=False)
    while waiting := [i for i in range(len(waves)) if states.waiting(i)]:
        step(waiting, final=True)
    return [decode(row) for row in ids]


def error_rates(utterances: Sequence[Utterance], texts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Word and character error rates for each corpus and for "all" (errors over all words together)."""
    import jiwer

    groups: dict[str, list[int]] = {}
    for i, utterance in enumerate(utterances):
        groups.setdefault(utterance.corpus, []).append(i)
    groups = {corpus: groups[corpus] for corpus in sorted(groups)} | {"all": list(range(len(utterances)))}
    result = {}
    for corpus, members in groups.items():
        references, guesses = [utterances[i].text for i in members], [texts[i] for i in members]
        words, characters = (
            jiwer.process_words(references, guesses),
            jiwer.process_characters(references, guesses),
        )
        result[corpus] = {
            "wer": words.wer,
            "cer": characters.cer,
            "utterances": len(members),
            "words": sum(len(r.split()) for r in references),
            "exact": sum(r == g for r, g in zip(references, guesses, strict=True)) / len(members),
        }
    return result


def measure(
    model: Any,
    utterances: Sequence[Utterance],
    cache: SoundCache,
    context: StreamingContext | None,
    *,
    device: torch.device | str = "cpu",
    through: str = "forward",
    bf16: bool = False,
) -> dict[str, dict[str, float]]:
    """Error rates by corpus under one context (None: the whole utterance at once).

    Raises:
        ConfigurationError: the whole utterance was asked for through the stream, or `through` is unknown.
    """
    if not utterances:
        raise ConfigurationError("there is no utterance to measure on; check the split and the corpora")
    if through == "forward":
        texts = transcribe_batches(model, utterances, cache, context, device=device, bf16=bf16)
    elif through == "stream" and context is not None:
        texts = transcribe_stream(model, utterances, cache, context, device=device)
    else:
        raise ConfigurationError(f"cannot measure context {context} through {through!r}; expected forward or stream")
    return error_rates(utterances, texts)


@torch.inference_mode()
def step_times(
    model: Any, wave: np.ndarray, context: StreamingContext, *, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """What the steps of one stream cost, in milliseconds: median and 95th percentile over a recording.

    Args:
        model: with `listen` and `step`.
        wave: float32 [samples], at least a few chunks long.
        context: of the stream.
    """
    states = model.new_states(1, context, device=torch.device(device))
    times = []
    for at in range(0, len(wave), 1600):
        block = torch.from_numpy(wave[at : at + 1600])[None].to(device)
        start = time.perf_counter()
        model.listen(states, [0], block)
        stepped = False
        while states.waiting(0) >= context.step_frames:
            logits = model.step(states, [0]).logits
            float(logits[0, 0, 0])  # waits for a GPU
            stepped = True
        if stepped:
            times.append(1000.0 * (time.perf_counter() - start))
    times = times[1:] or times or [float("nan")]  # the first one warms up
    return {"median": float(np.median(times)), "p95": float(np.percentile(times, 95)), "steps": float(len(times))}


def contexts_of(chunks: Sequence[int], lefts: Sequence[int], rights: Sequence[int]) -> dict[str, StreamingContext]:
    """Every combination of chunk, left and right context, in frames, by name."""
    contexts = [StreamingContext(left, chunk, right) for left in lefts for chunk in chunks for right in rights]
    return {str(context): context for context in contexts}


def report(
    model: Any,
    utterances: Sequence[Utterance],
    cache: SoundCache,
    contexts: Mapping[str, StreamingContext | None],
    *,
    device: str = "cpu",
    through: str = "forward",
    bf16: bool = False,
    latency: bool = False,
) -> dict[str, Any]:
    """Error rates under several contexts, with the machine and the time they took.

    Each context that streams has `latency_ms`, the longest wait of a frame for the frames its step needs; with
    `latency` also `step_ms`, what a step of one stream then takes (see `step_times`), on up to 30 s of the recordings.
    """
    seconds = sum(cache.samples(u.file) for u in utterances) / RATE
    results = {}
    for name, context in contexts.items():
        start = time.monotonic()
        rates = measure(model, utterances, cache, context, device=device, through=through, bf16=bf16)
        took_s = time.monotonic() - start
        results[name] = {"rates": rates, "seconds": took_s, "audio_s_per_s": seconds / max(took_s, 1e-9)}
        if context is not None:
            results[name]["latency_ms"] = context.latency_ms
        if context is not None and latency:
            wave = np.concatenate([cache.wave(u.file) for u in utterances[:40]])[: 30 * RATE]
            results[name]["step_ms"] = step_times(model, wave, context, device=device)
        log.info("context %s: %.1f s", name, took_s)
    return {
        "through": through,
        "audio_s": seconds,
        "device": device,
        "machine": machine(),
        "contexts": results,
    }


def table(result: Mapping[str, Any]) -> str:
    """A report as text: one line a corpus, WER and CER in percent for each context."""
    contexts: Mapping[str, Any] = result["contexts"]
    corpora = list(next(iter(contexts.values()))["rates"])
    lines = [" ".join([f"{'WER / CER %':<18}{'words':>7}", *(f"{name:>15}" for name in contexts)])]
    for corpus in corpora:
        words = next(iter(contexts.values()))["rates"][corpus]["words"]
        cells = [c["rates"][corpus] for c in contexts.values()]
        rates = (f"{100 * c['wer']:.1f} / {100 * c['cer']:.1f}" for c in cells)
        lines.append(" ".join([f"{corpus:<18}{words:>7}", *(f"{cell:>15}" for cell in rates)]))
    waits = [str(c.get("latency_ms", "all")) for c in contexts.values()]
    lines.append(" ".join([f"{'latency, ms':<18}{'':>7}", *(f"{wait:>15}" for wait in waits)]))
    if any("step_ms" in c for c in contexts.values()):
        steps = [
            f"{c['step_ms']['median']:.1f} / {c['step_ms']['p95']:.1f}" if "step_ms" in c else ""
            for c in contexts.values()
        ]
        lines.append(" ".join([f"{'step p50 / p95, ms':<18}{'':>7}", *(f"{step:>15}" for step in steps)]))
    return "\n".join(lines)


def write_report(result: Mapping[str, Any], path: str | Path) -> None:
    """Write a report as JSON, whole or not at all."""
    text = json.dumps(result, indent=2).encode()
    write_atomically(Path(path), lambda f: f.write(text))

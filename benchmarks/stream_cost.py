"""Does a stream cost the same after three hours as after ten seconds? And what does a sliding window cost?

    python benchmarks/stream_cost.py [--rounds 30] [--threads 2]

A step is `listen` to one chunk of samples and a committing `step`. The ages 10 s, 10 min and 3 h are reached with
rings filled by real steps; the counters are then set forward by a multiple of the ring's length, which leaves every
index where it is. The other side is what one does with transformers: encode a window of left context, chunk and
right context anew for each chunk. All sides run in turn; medians are reported.
"""

from __future__ import annotations

import argparse
import resource
import warnings

import torch
from machine import alternate, median_ms, percentile_ms, write

from wavlm_live.model import StreamingContext, WavLMConfig, WavLMForCTC

AGES = {"10 s": 500, "10 min": 30_000, "3 h": 540_000}
"""Ages in frames of 20 ms."""


def stream_at(model: WavLMForCTC, context: StreamingContext, frames: int):
    """A state of about this age, whose rings are full of what real steps wrote, and a function for one step."""
    states = model.new_states(1, context)
    chunk = torch.randn(1, context.chunk_frames * 320) * 0.05

    def step() -> None:
        model.listen(states, [0], chunk)
        if states.waiting(0) >= context.step_frames:
            model.step(states, [0])

    while states.committed(0) < context.left_frames + context.chunk_frames:
        step()
    behind = max(0, frames - states.committed(0)) // context.left_frames * context.left_frames
    states.committed_frames[0] += behind
    return states, step


def sliding_window(config: WavLMConfig, context: StreamingContext):
    """transformers on the same sizes: the window that a step may see, encoded anew."""
    from transformers import WavLMConfig as PeerConfig
    from transformers import WavLMForCTC as PeerModel

    skip = ("id2label", "label2id", "model_type")
    peer = PeerModel(PeerConfig(**{k: v for k, v in config.to_dict().items() if k not in skip})).eval()
    frames = context.left_frames + context.step_frames
    window = torch.randn(1, 320 * (frames - 1) + 400) * 0.05

    def step() -> None:
        with torch.no_grad():
            peer(window)

    return step


def measure(name: str, config: WavLMConfig, contexts: list[StreamingContext], rounds: int) -> list[dict[str, object]]:
    """Rows of the table for one model."""
    model = WavLMForCTC(config).eval()
    rows: list[dict[str, object]] = []
    for context in contexts:
        made = {age: stream_at(model, context, frames) for age, frames in AGES.items()}
        sides = {age: step for age, (_, step) in made.items()}
        sides["transformers window"] = sliding_window(config, context)
        alternate(sides, 3)  # warm up
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        times = alternate(sides, rounds)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        ours = median_ms(times["3 h"])
        rows.append(
            {
                "model": name,
                "context": str(context),
                "chunk_ms": context.chunk_ms,
                "step_ms": {age: median_ms(times[age]) for age in AGES},
                "step_p99_ms": {age: percentile_ms(times[age], 0.99) for age in AGES},
                "state_mb": {age: round(states.nbytes / 1e6, 2) for age, (states, _) in made.items()},
                "process_grown_mb": round(grown / 1024, 1),
                "real_time_factor": round(ours / context.chunk_ms, 4),
                "transformers_window_ms": median_ms(times["transformers window"]),
                "times_faster": round(median_ms(times["transformers window"]) / ours, 2),
            }
        )
        print(
            f"{name:8} {context!s:12} " + "  ".join(f"{age}: {median_ms(times[age]):7.2f} ms" for age in AGES), end=""
        )
        print(f"  window: {rows[-1]['transformers_window_ms']:8.2f} ms  {rows[-1]['times_faster']} x faster")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", category=UserWarning)
    from wavlm_live.model.bundled import bundled_path

    contexts = [StreamingContext(250, 16, 0), StreamingContext(250, 32, 8)]
    bundled = WavLMConfig.from_file(bundled_path() / "config.json")
    rows = measure("bundled", bundled, contexts, options.rounds)
    rows += measure("base", WavLMConfig(), contexts, options.rounds)
    write("stream_cost", {"rounds": options.rounds, "rows": rows})


if __name__ == "__main__":
    main()

"""Streams of several processes on one device: what Python does for a stream is done on a core of each.

    python benchmarks/streams_processes.py --processes 4 --streams 8000 [--device cuda] [--model base] [--chunk-ms 320]

As `streams.py`, but with a number of streams that is given, shared out among processes that begin together, and in real
time: waiting is waited, since the processes share the device. Held means that the p99 of the latency is below one chunk
in every process. `busy` is the mean share of a process's time that steps and their results took.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier

import torch
from machine import RESULTS, write
from streams import held, recogniser_on

from wavlm_live.model import StreamingContext
from wavlm_live.streamer.calibration import calibrate
from wavlm_live.streamer.step_cost import StepCost

PATIENCE_S = 300.0
"""All processes have loaded the model and opened their streams by then."""


def serve(options: argparse.Namespace, count: int, barrier: Barrier, results: Queue) -> None:
    """One process: so many streams, from when all are ready."""
    torch.set_num_threads(options.threads)
    recogniser = recogniser_on(options.device, options.model)
    context, cost = StreamingContext(250, options.chunk_ms // 20, 0), StepCost()
    largest = 512 if options.device == "cuda" else 64
    calibrate(recogniser.model, context, cost, min(largest, count), time.perf_counter, 5.0)
    results.put(
        held(recogniser, context, cost, count, options.seconds, time.perf_counter, lambda: barrier.wait(PATIENCE_S))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--streams", type=int, default=8000, help="of all processes together")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--model", choices=("base", "bundled"), default="base")
    parser.add_argument("--chunk-ms", type=int, default=320)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--threads", type=int, default=1, help="of torch in each process")
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(options.processes), spawn.Queue()
    shares = [len(range(n, options.streams, options.processes)) for n in range(options.processes)]
    workers = [spawn.Process(target=serve, args=(options, share, barrier, results)) for share in shares]
    for worker in workers:
        worker.start()
    told = [results.get(timeout=2 * PATIENCE_S + 10 * options.seconds) for _ in workers]
    for worker in workers:
        worker.join()
    worst = max(one["p99_ms"] for one in told)
    row = {
        "model": options.model,
        "chunk_ms": options.chunk_ms,
        "seconds": options.seconds,
        "processes": options.processes,
        "streams": options.streams,
        "held": worst < options.chunk_ms,
        "p50_ms": max(one["p50_ms"] for one in told),
        "p99_ms": worst,
        **{name: round(sum(one[name] for one in told) / len(told), 2) for name in ("busy", "device", "batch_mean")},
        "steps_a_second": round(sum(one["steps_a_second"] for one in told), 1),
    }
    print(row)
    name = f"streams_processes_{options.device}"
    path = RESULTS / f"{name}.json"
    before = json.loads(path.read_text())["rows"] if path.is_file() else []
    which = ("model", "chunk_ms", "processes", "streams")
    write(name, {"rows": [old for old in before if any(old[k] != row[k] for k in which)] + [row]})


if __name__ == "__main__":
    main()

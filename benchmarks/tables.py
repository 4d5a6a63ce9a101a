"""The tables of README and docs, made from what the benchmarks wrote.

python benchmarks/tables.py            print them
python benchmarks/tables.py --write    put them into README.md, docs/*.md and the model card, between their markers
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tables_kernels
from tables_of_decoding import TABLES as OF_DECODING
from tables_of_server import TABLES as OF_SERVER
from tables_of_server import grid

HERE = Path(__file__).resolve().parent
CARD = HERE.parent / "model" / "bundled" / "english" / "README.md"
PAGES = [HERE.parent / "README.md", *sorted((HERE.parent / "docs").glob("*.md")), CARD]


def source(result: dict[str, Any]) -> str:
    """Where the figures come from, in a line."""
    machine = result["machine"]
    gpu = f"{machine['gpu']}, " if machine.get("gpu") else ""
    where = (
        f"{gpu}{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, torch {machine['torch']}"
    )
    return f"`{machine['command']}` on {where}, {machine['date']}."


def word_errors(result: dict[str, Any]) -> str:
    """WER by test set and context."""
    names = list(result["rows"][0]["wer"])
    rows = [[r["name"], r["words"], *(f"{r['wer'][n]:.1f}" for n in names)] for r in result["rows"]]
    rows.append(["characters wrong, all", "", *(f"{result['rows'][-1]['cer'][n]:.1f}" for n in names)])
    return grid(["WER %", "words", *names], rows)


def stream_cost(result: dict[str, Any]) -> str:
    """Milliseconds of a step by age, and of the sliding window."""
    ages = list(result["rows"][0]["step_ms"])
    rows = [
        [
            f"{r['model']}, `{r['context']}`",
            r["chunk_ms"],
            *(f"{r['step_ms'][a]:.1f}" for a in ages),
            f"{max(r['state_mb'].values()):.1f}",
            f"{r['transformers_window_ms']:.0f}",
            f"{r['times_faster']:.1f}x",
        ]
        for r in result["rows"]
    ]
    head = ["model, context", "chunk ms", *(f"step ms at {a}" for a in ages), "state MB", "window ms", "ratio"]
    return grid(head, rows)


def long_recording(result: dict[str, Any]) -> str:
    """Peak memory of whole recordings."""
    rows = [
        [r["side"], f"{r['minutes']:g}", r.get("seconds", r.get("failed")), r.get("peak_mb", "")]
        for r in result["rows"]
    ]
    return grid(["side", "minutes of sound", "seconds", "peak MB of the process"], rows)


def latency(result: dict[str, Any]) -> str:
    """Steps of one stream, and when words come."""
    rows = [
        [
            f"{r['model']}, {r['compute'].split(' (')[0]}",
            r["chunk_ms"],
            r["step_p50_ms"],
            r["step_p99_ms"],
            r["headroom"],
        ]
        for r in result["rows"]
    ]
    words = result["words"]
    return (
        grid(["model", "chunk ms", "step p50 ms", "step p99 ms", "chunk / p50"], rows)
        + f"\n\nBundled model, {words['recordings']} recordings (medians): first partial result "
        f"{words['first_partial_after_first_word_ms']} ms after the end of the first word, final result "
        f"{words['final_after_last_word_ms']} ms after the last word, {words['of_that_waiting_for_silence_ms']} ms of "
        f"which are the silence that ends a segment. {clock_of(result)}"
    )


def clock_of(result: dict[str, Any]) -> str:
    """Whose time was counted."""
    return "Time of one thread on the processor." if result["clock"] == "cpu" else "Time by the clock on the wall."


def streams(result: dict[str, Any]) -> str:
    """Streams that one device holds."""
    rows = [
        [
            f"{r['model']}, {r['compute'].split(' (')[0]}",
            r["chunk_ms"],
            r["streams"],
            f"{r['seconds']:g}",
            r.get("p50_ms", ""),
            r.get("p99_ms", ""),
            r.get("batch_mean", ""),
            f"{100 * r['share_of_peak']:.0f} %",
            f"{100 * r['share_of_copying']:.0f} %" if "share_of_copying" in r else "",
        ]
        for r in result["rows"]
    ]
    head = [
        "model", "chunk ms", "streams held", "simulated s", "latency p50 ms", "p99 ms", "mean batch",
        "of peak arithmetic", "of peak memory traffic",
    ]  # fmt: skip
    return grid(head, rows) + f"\n\n{clock_of(result)}"


def streams_processes(result: dict[str, Any]) -> str:
    """Streams of several processes on one device."""
    wanted = ("model", "chunk_ms", "processes", "streams", "p50_ms", "p99_ms", "busy")
    rows = [[*(r[name] for name in wanted), "yes" if r["held"] else "no"] for r in result["rows"]]
    head = ["model", "chunk ms", "processes", "streams", "latency p50 ms", "p99 ms", "busy", "held"]
    return grid(head, rows)


def host_cost(result: dict[str, Any]) -> str:
    """What a chunk of a stream costs the host."""
    rows = [
        [r["detector"], r["chunk_ms"], r["streams"], r["feed_us"], r["work_us"], r["streams_a_core"]]
        for r in result["rows"]
    ]
    head = ["voice detector", "chunk ms", "streams", "feeding, us a chunk", "all else, us a chunk", "streams a core"]
    return grid(head, rows)


def peers(result: dict[str, Any]) -> str:
    """Seconds of sound a second, side by side."""
    rows = [[r["side"], r["speed"], f"{r['by_window']}x", r.get("peak_mb", "")] for r in result["rows"]]
    head = ["side (base)", "seconds of sound a second", "by transformers window", "peak MB of a process"]
    return grid(head, rows) + f"\n\n{result['seconds']:g} s of sound. {clock_of(result)}"


def folder(result: dict[str, Any]) -> str:
    """Short recordings together and one by one."""
    rows = [
        [f"{r['model']}, {r['compute'].split(' (')[0]}", r["speed_one_by_one"], r["speed_together"], f"{r['ratio']}x"]
        for r in result["rows"]
    ]
    head = ["model", "one by one, seconds of sound a second", "together", "ratio"]
    return grid(head, rows) + f"\n\n{result['recordings']} recordings, {result['seconds']:g} s. {clock_of(result)}"


def long_session(result: dict[str, Any]) -> str:
    """What did not change in a long session."""
    rows = [
        ["simulated hours, streams at once", f"{result['hours']:g}, {result['streams_at_once']}"],
        ["streams that came and went", result["streams_finished"]],
        ["hours of sound", result["hours_of_sound"]],
        ["streams whose results differ from those of a session alone", result["streams_that_differ_from_alone"]],
        [
            "streams with results out of order, or problems",
            result["streams_out_of_order"] + result["streams_with_problems"],
        ],
        [
            "memory MB, median of the first and second half",
            f"{result['memory_mb_first_half']}, {result['memory_mb_second_half']}",
        ],
        [
            "of it given out by the C library",
            f"{result['given_out_mb_first_half']}, {result['given_out_mb_second_half']}",
        ],
        [
            "small objects of Python",
            f"{result['python_objects_first_half']}, {result['python_objects_second_half']}",
        ],
        [
            "processor ms a chunk, first and second half",
            f"{result['cpu_ms_a_chunk_first_half']:.2f}, {result['cpu_ms_a_chunk_second_half']:.2f}",
        ],
    ]  # fmt: skip
    return grid(["a session of many streams", ""], rows)


def of_kernels(table: Callable[[dict[str, Any]], tables_kernels.Table]) -> Callable[[dict[str, Any]], str]:
    """A table of tables_kernels.py in Markdown."""

    def made(result: dict[str, Any]) -> str:
        head, rows, note = table(result)
        return f"{grid(head, rows)}\n\n{note}"

    return made


def first_words(result: dict[str, Any]) -> str:
    """Seconds of a new user's path."""
    paths = result["paths"]
    file, microphone, browser = (paths[name]["seconds"] for name in ("file", "microphone", "browser"))
    heard_s = round(file["first words"] - file["installed"], 1)
    rows = [
        ["a file, README's command", result["clone_s"], file["installed"], heard_s],
        ["microphone, `wavlm-live listen`", "", "", microphone["first words"]],
        ["browser, `wavlm-live serve` and a click", "", "", browser["first words"]],
    ]  # fmt: skip
    return grid(["to the first words by", "git clone s", "installing s", "command to words s"], rows)


def dashboard(result: dict[str, Any]) -> str:
    """Frames of the dashboard's lanes, by the age of the page and the window."""
    heap = {row["minute"]: row["heap_mb"] for row in result["heap"]}
    rows = [
        [
            f"{row['minute']} min, {row['window']}",
            row["in_sight"],
            row["frames_a_second"],
            f"{row['frame_ms']['p50']:.1f}, {row['frame_ms']['p95']:.1f}",
            row["main_thread_ms_a_frame"],
            heap[row["minute"]],
        ]
        for row in result["frames"]
    ]
    head = [
        "age, window",
        "lanes in sight",
        "frames a second",
        "frame ms p50, p95",
        "main thread ms a frame",
        "heap MB",
    ]
    return grid(head, rows) + f"\n\nChromium {result['browser']}, {result['lanes']} lanes, {result['rendering']}."


def peer_pocketsphinx(result: dict[str, Any]) -> str:
    """Word errors by corpus, and computing time, of pocketsphinx and of ours."""
    names = list(result["rows"][0]["wer"])
    rows = [[r["name"], r["words"], *(f"{r['wer'][n]:.1f}" for n in names)] for r in result["rows"]]
    rows.append(["characters wrong, all", "", *(f"{result['rows'][-1]['cer'][n]:.1f}" for n in names)])
    factors = result["realtime_factor"]
    rows.append(["processor time by length of sound", "", *(f"{factors[n]:.3f}" for n in names)])
    theirs = f"pocketsphinx {result['pocketsphinx']['version']}"
    head = ["WER %", "words", *(n.replace("pocketsphinx", theirs) for n in names)]
    return grid(head, rows) + f"\n\n{result['recordings']} recordings, {result['audio_s']:g} s."


def live_diarization(result: dict[str, Any]) -> str:
    """Diarization error with its parts, verification, activity and cost."""
    rows = [
        [
            f"{r['speakers']}, {r['manner']}",
            f"{r['der']:.1f}",
            f"{r['missed']:.1f}",
            f"{r['false_alarm']:.1f}",
            f"{r['confusion']:.1f}",
            f"{r['der_collar']:.1f}",
            f"{r['der_one_label']:.1f}",
            f"{r['labels_found']:g}",
            f"{r['overlap']:.1f}",
        ]
        for r in result["rows"]
    ]
    head = [
        "speakers", "DER %", "missed", "false alarm", "confusion", "DER %, collar 0.25 s", "one label for all",
        "labels found", "overlapped frames %",
    ]  # fmt: skip
    pairs, spent = result["verification"], result["processor_time"]
    checked = grid(
        ["verification, stretches of 3 s", "EER %", "EER % within a corpus", "minDCF 0.01", "minDCF 0.05"],
        [[
            f"{pairs['speakers']} speakers, {pairs['trials']} trials", f"{pairs['eer']:.1f}",
            f"{pairs['eer_within_corpus']:.1f}", f"{pairs['min_dcf_0.01']:.2f}", f"{pairs['min_dcf_0.05']:.2f}",
        ]],
    )  # fmt: skip
    voiced = grid(
        ["activity head", "area under ROC", "EER %", "frames right at 0.5, %"],
        [[r["sound"], f"{r['auc']:.3f}", f"{r['eer']:.1f}", f"{r['right_at_0.5']:.1f}"] for r in result["activity"]],
    )
    cost = f"Processor time by length of sound: {spent['without']:.3f} without speakers, {spent['with']:.3f} with."
    return f"{grid(head, rows)}\n\n{checked}\n\n{voiced}\n\n{cost}"


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "word_errors": word_errors,
    "stream_cost": stream_cost,
    "long_recording": long_recording,
    "latency": latency,
    "streams": streams,
    "host_cost": host_cost,
    "streams_cuda": streams,
    "streams_processes_cuda": streams_processes,
    "attention_cuda": of_kernels(tables_kernels.attention_cuda),
    "front_end_cuda": of_kernels(tables_kernels.front_end_cuda),
    "peers": peers,
    "folder": folder,
    "long_session": long_session,
    "first_words": first_words,
    "dashboard": dashboard,
    "attention_cpu": of_kernels(tables_kernels.attention_cpu),
    "cpu_step": of_kernels(tables_kernels.cpu_step),
    "front_end_cpu": of_kernels(tables_kernels.front_end_cpu),
    "peer_pocketsphinx": peer_pocketsphinx,
    "live_diarization": live_diarization,
    **OF_DECODING,
    **OF_SERVER,
}


def all_tables() -> dict[str, str]:
    """Each table with the line that says where it comes from, for the results that are there."""
    made = {}
    for name, table in TABLES.items():
        path = HERE / "results" / f"{name}.json"
        if path.is_file():
            result = json.loads(path.read_text(encoding="utf-8"))
            made[name] = f"{table(result)}\n\n{source(result)}"
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    pages = {page: page.read_text(encoding="utf-8") for page in PAGES}
    for name, table in all_tables().items():
        print(f"{name}\n\n{table}\n")
        pattern = re.compile(rf"(<!-- table {name} -->\n).*?(<!-- end -->)", re.S)
        places = 0
        for page, text in pages.items():
            pages[page], found = pattern.subn(lambda m, table=table: f"{m[1]}{table}\n{m[2]}", text)
            places += found
        if not places:
            print(f"no page has a place for {name}: put <!-- table {name} --> and <!-- end --> there\n")
    if options.write:
        for page, text in pages.items():
            if text != page.read_text(encoding="utf-8"):
                page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

"""The tables of docs/decoding.md and docs/endpointing.md, for `tables.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tables_of_server import grid


def noise(result: dict[str, Any]) -> str:
    """False words in noise, by the kind of noise where there were any."""
    streams = list(result["streams"].values())
    kinds = sorted({kind for entries in streams for kind in entries[0]["seconds_by_kind"]})
    rows = []
    sides = []
    for n, row in enumerate(result["rows"]):
        sides.append(f"{row['decoding']}, {'by voice' if row['words_need_voice'] else 'anywhere'}")
        counts = {kind: sum(entries[n]["words_by_kind"].get(kind, 0) for entries in streams) for kind in kinds}
        rows.append(counts)
    seconds = {kind: sum(entries[0]["seconds_by_kind"].get(kind, 0) for entries in streams) for kind in kinds}
    lines: list[list[object]] = [
        [kind.replace("_", " "), *(f"{60 * row[kind] / seconds[kind]:.1f}" for row in rows)]
        for kind in kinds
        if any(row[kind] for row in rows)
    ]
    silent = [kind.replace("_", " ") for kind in kinds if not any(row[kind] for row in rows)]
    if silent:
        lines.append([", ".join(silent), *("0.0" for _ in rows)])
    lines.append([f"all {result['minutes']:g} minutes", *(f"{row['words_a_minute']:.2f}" for row in result["rows"])])
    if one := result.get("one_stream"):
        minutes = sum(one[0]["seconds_by_kind"].values()) / 60
        lines.append([f"one stream of {minutes:g} minutes", *(f"{len(e['words']) / minutes:.2f}" for e in one)])
        late = minutes / 6
        lines.append(
            [f"its last {late:g} minutes", *(f"{sum(e['words_by_minute'][-round(late) :]) / late:.2f}" for e in one)]
        )
    return grid(["false words a minute", *sides], lines)


def words_by_voice(result: dict[str, Any]) -> str:
    """Words given and right with and without voice."""
    rows = []
    for free, bound in zip(result["rows"][::2], result["rows"][1::2], strict=True):
        assert (free["corpus"], free["decoding"]) == (bound["corpus"], bound["decoding"])
        name = f"{free['corpus']}, {free['decoding']}"
        rows.append([name, free["words"], free["given"], bound["given"], free["right"], bound["right"]])
    return grid(
        ["real speech", "words said", "given anywhere", "given by voice", "right anywhere", "right by voice"], rows
    )


def voice_detection(result: dict[str, Any]) -> str:
    """Misses and false alarms of the detectors."""
    names = list(result["rows"][0]["missed"])
    rows = [
        [
            f"`{r['detector']}`",
            *(f"{r['missed'][n]:.1f} / {r['false'][n]:.1f}" for n in names),
            f"{r['starts_in_noise_a_minute']:.2f}",
        ]
        for r in result["rows"]
    ]
    return grid(["speech missed % / pauses called speech %", *names, "starts a minute in noise"], rows)


def tune_voice(result: dict[str, Any]) -> str:
    """Choices of thresholds on dev and test."""
    rows = []
    for name in result["dev"]:
        row = result["dev"][name]
        durations = f"{row['min_speech_ms']}, {row['min_silence_ms']}, {row['padding_ms']} ms"
        cells = [f"{r['mean_missed']:.1f} / {r['mean_false']:.1f}" for r in (row, result["test"][name])]
        starts = [f"{r['starts_in_noise_a_minute']:.2f}" for r in (row, result["test"][name])]
        limits = f"{row['start_probability']:g}, {row['stay_probability']:g}"
        rows.append([name, limits, durations, cells[0], starts[0], cells[1], starts[1]])
    head = [
        "choice",
        "start, stay",
        "least speech, silence, padding",
        "dev: missed / false %",
        "starts a minute in noise",
    ]
    return grid([*head, "test: missed / false %", "starts a minute in noise"], rows)


def decoding_errors(result: dict[str, Any]) -> str:
    """WER by test set, decoder and context."""
    names = list(result["rows"][0]["wer"])
    rows = [
        [f"{r['name']}, {r['decoder']}", r["words"], *(f"{r['wer'][n]:.1f}" for n in names)] for r in result["rows"]
    ]
    for row in result["rows"][-3:]:
        rows.append([f"characters, {row['name']}, {row['decoder']}", "", *(f"{row['cer'][n]:.1f}" for n in names)])
    return grid(["WER %", "words", *names], rows) + "\n\n" + reliability(result)


def reliability(result: dict[str, Any]) -> str:
    """How many of the words said with a confidence are right, by decoder."""
    decoders = result["reliability"]
    rows: list[list[object]] = []
    for at in range(10):
        cells = [d["table"][at] for d in decoders.values()]
        shown = (f"{100 * c['right']:.0f} % of {c['words']}" if c["words"] else "" for c in cells)
        rows.append([f"{at / 10:.1f} to {(at + 1) / 10:.1f}", *shown])
    rows.append(["mean distance (ECE)", *(f"{d['calibration_error']:.3f}" for d in decoders.values())])
    return grid(["confidence: right", *decoders], rows)


def decoding_cost(result: dict[str, Any]) -> str:
    """Per cent of a core by decoder, and for many streams one by one and together."""
    rows = [[r["decoder"], f"{r['percent']:.2f}", f"{r['with_peeks_percent']:.2f}"] for r in result["rows"]]
    shown = grid(["% of a core for a stream", "committed frames", "with provisional looks"], rows)
    if not result.get("many"):
        return shown
    many = [
        [r["decoder"], r["streams"], f"{r['one_by_one_percent']:.3f}", f"{r['together_percent']:.3f}"]
        for r in result["many"]
    ]
    return shown + "\n\n" + grid(["% of a core for each stream", "streams", "one by one", "together"], many)


def stability(result: dict[str, Any]) -> str:
    """Flicker and delay by chunk and decoder."""
    rows = [
        [
            f"{r['kind']}, {r['decoder']}, {r['chunk']}",
            r["words"],
            f"{r['changed_per_word']:.2f}",
            f"{r['grown_per_word']:.2f}",
            *(r.get(f"{name}_{what}_ms", "") for name in ("shown", "stable") for what in ("median", "p90")),
        ]
        for r in result["rows"]
    ]
    head = ["live text", "words", "changed", "grown", "shown ms", "p90", "stable ms", "p90"]
    return grid(head, rows)


def word_times(result: dict[str, Any]) -> str:
    """Shares of words whose ends are near, and medians."""
    rows = [
        [
            f"{r['decoder']}, {r['context']}",
            r["aligned"]["words"],
            *(f"{100 * r['aligned'][k]:.0f} %" for k in ("start_near", "end_near", "both_near")),
            *(f"{r['sounded'][k]:+.0f}" for k in ("start_median_ms", "end_median_ms")),
        ]
        for r in result["rows"]
    ]
    head = ["words that are right", "words", "start within 60 ms", "end", "both", "start - sound ms", "end - sound ms"]
    return grid(head, rows)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "noise": noise,
    "words_by_voice": words_by_voice,
    "voice_detection": voice_detection,
    "tune_voice": tune_voice,
    "decoding_errors": decoding_errors,
    "decoding_cost": decoding_cost,
    "stability": stability,
    "word_times": word_times,
}

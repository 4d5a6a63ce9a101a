"""The tables of docs/server.md, for `tables.py`."""

from __future__ import annotations

from typing import Any


def grid(head: list[str], rows: list[list[object]]) -> str:
    """A Markdown table, the first column left, the others right."""
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])


def three(row: dict[str, Any], name: str = "") -> str:
    """Percentiles 50, 95 and 99 in whole milliseconds."""
    return " / ".join(f"{row[f'{name}p{share}_ms']:.0f}" for share in (50, 95, 99) if f"{name}p{share}_ms" in row)


def server(result: dict[str, Any]) -> str:
    """Latency and processor time by the number of clients."""
    rows = [
        [
            r["clients"],
            r["refused"],
            three(r),
            three(r, "final_"),
            f"{r['transport_cpu']:.2f}",
            f"{r['model_cpu']:.2f}",
            r["server_mb"],
        ]
        for r in result["rows"]
    ]
    head = [
        "live clients",
        "refused",
        "partial after its word, ms (p50 / p95 / p99)",
        "last final after the end, ms",
        "processors: transport",
        "model",
        "MB",
    ]
    return grid(head, rows) + f"\n\n{result['seconds']:g} s each, {result['threads']} thread for the model."


def server_peer(result: dict[str, Any]) -> str:
    """Two servers under the same load."""
    rows = [
        [f"{r['server']}, {r['clients']}", r["utterances"], three(r), f"{1000 * r['cpu_by_audio']:.1f}", r["server_mb"]]
        for r in result["rows"]
    ]
    head = [
        "server, clients",
        "utterances",
        "text after the last sample, ms (p50 / p95 / p99)",
        "CPU ms a second",
        "MB",
    ]
    return grid(head, rows)


def sherpa(result: dict[str, Any]) -> str:
    """The bundled model here and there."""
    rows = [[r["side"], r["speed"], r["peak_mb"], r["same_text"]] for r in result["rows"]]
    head = [
        "side (bundled model, one thread)",
        "seconds of sound a second",
        "peak MB of a process",
        "text of sherpa-onnx's",
    ]
    return grid(head, rows) + f"\n\n{result['seconds']:g} s of speech; sherpa-onnx {result['sherpa-onnx']}."


def soak(result: dict[str, Any]) -> str:
    """What an hour of broken lines left."""
    minutes = result["by_minute"]
    middle, last = minutes[len(minutes) // 2], minutes[-1]
    left, wrong = result["streams_left"], result["wrong"]
    rows = [
        [
            "minutes, clients, streams that the server admitted",
            f"{result['minutes']:g}, {result['clients']}, {result['admitted']}",
        ],
        ["streams that came to their end, clients that left for good", f"{result['passes']}, {result['left']}"],
        ["lines broken", ", ".join(f"{kind} {count}" for kind, count in sorted(result["breaks"].items()))],
        ["hours of sound, events", f"{result['audio_hours']}, {result['events']}"],
        [
            "streams with other finals, other starts or stops of speech",
            f"{wrong.get('finals', 0)}, {wrong.get('speech', 0)}",
        ],
        ["streams with other markers, streams that failed", f"{wrong.get('markers', 0)}, {wrong.get('failed', 0)}"],
        [
            "memory MB after a quarter, the half, the whole",
            f"{minutes[len(minutes) // 4]['mb']}, {middle['mb']}, {last['mb']}",
        ],
        [
            "streams left in the server, open and held",
            "not known" if left is None else f"{left['open']:g}, {left['held']:g}",
        ],
    ]
    return grid(["an hour of broken lines", ""], rows)


def resume_cuts(result: dict[str, Any]) -> str:
    """How many cuts changed something."""
    rows = [[result["cuts"], result["elsewhere"], result["runs"], result["wrong"]]]
    return grid(["cuts", "of them to another server", "streams", "streams with other finals or speech"], rows)


TABLES = {
    "server": server,
    "server_peer": server_peer,
    "sherpa": sherpa,
    "soak": soak,
    "resume_cuts": resume_cuts,
}

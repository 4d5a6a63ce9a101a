"""The tables of README, made from what the benchmarks wrote.

python benchmarks/tables.py            print them
python benchmarks/tables.py --write    put them into README.md, between their markers
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"


def grid(head: list[str], rows: list[list[object]]) -> str:
    """A Markdown table, the first column left, the others right."""
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])


def source(result: dict[str, Any]) -> str:
    """Where the figures come from, in a line."""
    machine = result["machine"]
    where = f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, torch {machine['torch']}"
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


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "word_errors": word_errors,
    "stream_cost": stream_cost,
    "long_recording": long_recording,
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
    text = README.read_text(encoding="utf-8")
    for name, table in all_tables().items():
        print(f"{name}\n\n{table}\n")
        pattern = re.compile(rf"(<!-- table {name} -->\n).*?(<!-- end -->)", re.S)
        text, found = pattern.subn(lambda m, table=table: f"{m[1]}{table}\n{m[2]}", text)
        if not found:
            print(f"README has no place for {name}: put <!-- table {name} --> and <!-- end --> there\n")
    if options.write:
        README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

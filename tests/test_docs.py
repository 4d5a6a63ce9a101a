"""What README and docs print works as printed."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)


def examples(language: str) -> list:
    found = []
    for page in PAGES:
        for number, (kind, text) in enumerate(FENCE.findall(page.read_text(encoding="utf-8"))):
            if kind == language:
                found.append(pytest.param(text, id=f"{page.stem}-{number}"))
    return found


@pytest.mark.parametrize("code", examples("python"))
def test_python_examples_run(code, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


def commands() -> list:
    """Lines of shell examples that only read files of the project; microphones, servers and training have own tests."""
    found = []
    for page in PAGES:
        for kind, text in FENCE.findall(page.read_text(encoding="utf-8")):
            if kind != "bash":
                continue
            for line in text.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words[:2] == ["wavlm-live", "transcribe"] and any((ROOT / word).is_file() for word in words):
                    found.append(pytest.param(words[1:], id=f"{page.stem}-{line[:60]}"))
    return found


@pytest.mark.parametrize("arguments", commands())
def test_commands_run(arguments, tmp_path):
    code = "import sys; from wavlm_live.streamer.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, *[str(ROOT / a) if (ROOT / a).is_file() else a for a in arguments]],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() or list(tmp_path.iterdir())


def test_readme_names_the_two_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "wavlm-live transcribe --realtime --lm english tests/audio/digits_and_commands.flac" in text
    assert "pip install -c constraints.txt -e '.[test]' && pytest" in text


def test_links_lead_somewhere():
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if not target.startswith(("http://", "https://", "mailto:")):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_figures_come_from_the_results():
    """The tables of README and docs are what `benchmarks/tables.py` makes of the results that benchmarks wrote."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import tables  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    made = tables.all_tables()
    placed = set()
    for page in tables.PAGES:
        found = re.findall(r"<!-- table (\w+) -->\n(.*?)\n<!-- end -->", page.read_text(encoding="utf-8"), re.S)
        for name, shown in found:
            assert shown == made[name], f"{page}: the table {name} is not what the results say; tables.py --write"
            placed.add(name)
    assert placed == set(made)
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        machine = json.loads(path.read_text())["machine"]
        assert machine["command"].startswith("python ")
        assert machine["processor"]

"""No bytes and no text make a protocol raise. benchmarks/fuzz_protocols.py tries a million."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

_PATH = Path(__file__).resolve().parents[3] / "benchmarks" / "fuzz_protocols.py"
_SPEC = importlib.util.spec_from_file_location("fuzz_protocols", _PATH)
fuzz = importlib.util.module_from_spec(_SPEC)
sys.path.insert(0, str(_PATH.parent))
try:
    _SPEC.loader.exec_module(fuzz)
finally:
    sys.path.pop(0)


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_no_input_raises(name, seed):
    fuzz.run(name, 1000, seed)

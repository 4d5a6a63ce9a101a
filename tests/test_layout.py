"""The folders, the packages and who may import whom: kernels <- model <- streamer."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ORDER = ["kernels", "model", "streamer"]
LIGHT = {"torch", "triton", "numpy", "safetensors"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path, *, top_level: bool) -> set[str]:
    """Absolute names of what a file imports; relative imports become wavlm_live.*."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    here = ["wavlm_live", *path.relative_to(ROOT).with_suffix("").parts]
    if here[-1] == "__init__":
        here = [*here[:-1], "__init__"]
    names = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            lazy = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            checking = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            if top_level and (lazy or checking):
                continue
            if isinstance(child, ast.Import):
                names.update(alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                prefix = ".".join(here[: -child.level]) if child.level else ""
                base = ".".join(part for part in (prefix, child.module) if part)
                names.add(base)
                names.update(f"{base}.{alias.name}" for alias in child.names)
            visit(child)

    visit(tree)
    return names


@pytest.mark.parametrize("package", ORDER)
def test_imports_point_left_only(package):
    forbidden = ORDER[ORDER.index(package) + 1 :]
    for path in modules(package):
        for name in imported(path, top_level=False):
            wrong = [other for other in forbidden if name.startswith(f"wavlm_live.{other}")]
            assert not wrong, f"{path.relative_to(ROOT)} imports {name}; imports point kernels <- model <- streamer"
            assert name.split(".")[0] not in ORDER, f"{path.relative_to(ROOT)}: import {name} by wavlm_live or a dot"


@pytest.mark.parametrize("package", ["kernels", "model"])
def test_kernels_and_model_import_little(package):
    allowed = LIGHT | set(sys.stdlib_module_names) | {"wavlm_live"}
    for path in modules(package):
        if "training" in path.parts:  # an extra of its own
            continue
        wrong = {n.split(".")[0] for n in imported(path, top_level=True)} - allowed
        assert not wrong, (
            f"{path.relative_to(ROOT)} imports {sorted(wrong)} when it is imported; import them where used"
        )


def test_the_package_list_is_the_folders():
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    found = set()
    for package in ORDER:
        for folder in [ROOT / package, *(f for f in (ROOT / package).rglob("*") if f.is_dir())]:
            if folder.name == "__pycache__" or not any(f.is_file() for f in folder.iterdir()):
                continue
            found.add(".".join(["wavlm_live", *folder.relative_to(ROOT).parts]))
    assert listed == found
    mapping = PROJECT["tool"]["setuptools"]["package-dir"]
    assert set(mapping) == listed
    for name, folder in mapping.items():
        assert name == "wavlm_live." + folder.replace("/", ".")


def test_every_package_says_that_it_is_typed():
    for folder in PROJECT["tool"]["setuptools"]["package-dir"].values():
        if list((ROOT / folder).glob("*.py")):
            assert (ROOT / folder / "py.typed").is_file(), folder


def test_importing_is_light():
    """A command line that only prints its help must not wait for torch or need a sound card."""
    code = (
        "import sys, wavlm_live.streamer, wavlm_live.streamer.cli, wavlm_live.model.errors;"
        "print([m for m in ('torch', 'sounddevice', 'av', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_compiler_is_not_imported():
    """It takes longer than all the rest, and who streams on a CPU never compiles."""
    code = (
        "import sys, wavlm_live.streamer as s; s.Recogniser.load(device='cpu', dtype='auto').alone();"
        "print([m for m in ('torch._dynamo', 'torch._inductor', 'triton', 'sympy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_file_is_too_long():
    for package in [*ORDER, "demos"]:
        for path in modules(package):
            assert len(path.read_text().splitlines()) <= 400, path

"""`wavlm-live models`: which models there are on this machine, what they are, and fetching another one."""

from __future__ import annotations

import json
import re
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from ..model.bundled import bundled_names, bundled_path
from ..model.errors import CheckpointError, WavLMLiveError
from ..model.folders import Source, read_json

WEIGHT_NAMES = ("model.safetensors", "model-*.safetensors", "pytorch_model.bin", "pytorch_model-*.bin")
SMALL_FILES = (
    "vocab.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "preprocessor_config.json",
    "streaming.json",
    "decoding.json",
    "heads.json",
    "heads.safetensors",
    "README.md",
)
"""What a model may have beside config.json and its weights."""


@dataclass(frozen=True)
class KnownModel:
    """A WavLM on this machine."""

    name: str
    """What `--model` takes."""
    kind: str
    """bundled, cached (from the hub), or folder."""
    folder: Path

    @property
    def architecture(self) -> str:
        """Class that the checkpoint was saved from; only `WavLMForCTC` writes text."""
        found = read_json(self.folder / "config.json").get("architectures")
        return str(found[0]) if isinstance(found, list) and found else "unknown"

    @property
    def weight_files(self) -> list[Path]:
        """The files of its weights, those of one format."""
        safetensors, pickles = ([p for n in names for p in self.folder.glob(n)] for names in _by_format())
        return sorted(safetensors or pickles)

    @property
    def size_bytes(self) -> int:
        """Of its weights."""
        return sum(path.stat().st_size for path in self.weight_files)


def _by_format() -> tuple[tuple[str, ...], tuple[str, ...]]:
    return WEIGHT_NAMES[:2], WEIGHT_NAMES[2:]


def bundled_models() -> list[KnownModel]:
    """The models of the package."""
    return [KnownModel(name, "bundled", bundled_path(name)) for name in bundled_names()]


def cached_models() -> list[KnownModel]:
    """WavLM models in the cache of the Hugging Face hub (`HF_HOME`), by name."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return []
    found = []
    for repository in sorted(repositories, key=lambda r: r.repo_id):
        newest = max(repository.revisions, key=lambda r: r.last_modified, default=None)
        if repository.repo_type == "model" and newest is not None and _is_wavlm(newest.snapshot_path):
            found.append(KnownModel(repository.repo_id, "cached", newest.snapshot_path))
    return found


def _is_wavlm(folder: Path) -> bool:
    try:
        return read_json(folder / "config.json").get("model_type") == "wavlm"
    except WavLMLiveError:
        return False


def find_model(name: str | None) -> KnownModel:
    """A model on this machine: bundled, a folder, or cached.

    Args:
        name: as for `--model`; None is the default model.

    Raises:
        CheckpointError: it is not here; the message says how to fetch it.
    """
    if name is None or name in bundled_names():
        folder = bundled_path(name)
        return KnownModel(folder.name, "bundled", folder)
    source = Source(name)
    if source.folder is not None:
        source.need("config.json")
        return KnownModel(name, "folder", source.folder)
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json")
    if not isinstance(config, str):
        raise CheckpointError(
            f"{name} is neither bundled nor a folder nor in the cache; fetch it with `wavlm-live models pull {name}`"
        )
    return KnownModel(name, "cached", Path(config).parent)


def pull(name: str, revision: str | None = None) -> KnownModel:
    """Download a model into the hub's cache, unless it is there already.

    Raises:
        CheckpointError: no such repository, no network, or it holds no WavLM; named in the message.
    """
    from ..model.checkpoints import open_weights
    from ..model.config import WavLMConfig

    source = Source(name, revision)
    config = source.need("config.json")
    WavLMConfig.from_file(config)  # before the large files: is it one of ours?
    open_weights(source)
    for small in SMALL_FILES:
        source.find(small)
    return KnownModel(name, "folder" if source.folder is not None else "cached", config.parent)


def describe(model: KnownModel) -> Iterator[tuple[str, str]]:
    """Facts about a model as pairs of a label and a value.

    Raises:
        CheckpointError: its files cannot be read.
    """
    from ..model.config import WavLMConfig
    from .recogniser import GENERAL_CONTEXT, read_contexts

    config = WavLMConfig.from_file(model.folder / "config.json")
    yield "name", model.name
    yield "kind", model.kind
    yield "folder", str(model.folder)
    yield "architecture", model.architecture
    parameters, dtypes = _tensors(model)
    if parameters:
        yield "parameters", f"{parameters:,}"
    size = f"{size_text(model.size_bytes)} {'/'.join(dtypes)}".strip()
    yield "weights", f"{size} in {len(model.weight_files)} file(s)" if model.weight_files else "not here"
    order = "stable (norm first)" if config.do_stable_layer_norm else "post-norm"
    yield (
        "encoder",
        f"{config.num_hidden_layers} layers, {config.num_attention_heads} heads, width {config.hidden_size}, {order}",
    )
    yield "front end", f"{config.feat_extract_norm} norm, channels {', '.join(map(str, config.conv_dim))}"
    if (model.folder / "vocab.json").is_file():
        yield "tokens", _token_text(read_json(model.folder / "vocab.json"))
    streaming = model.folder / "streaming.json"
    contexts = read_contexts(streaming if streaming.is_file() else None) or {"default": GENERAL_CONTEXT}
    for name, context in contexts.items():
        yield f"context {name}", f"{context} frames, text certain after {context.latency_ms} ms"
    yield from _from_card(model.folder / "README.md")


def _tensors(model: KnownModel) -> tuple[int, list[str]]:
    """Number of parameters and kinds of numbers, from the headers of safetensors files."""
    parameters = 0
    kinds: Counter[str] = Counter()
    for path in model.weight_files:
        if path.suffix == ".safetensors":
            for entry in _safetensors_header(path).values():
                if isinstance(entry, dict) and "shape" in entry:
                    parameters += prod(entry["shape"])
                    kinds[str(entry.get("dtype"))] += 1
    return parameters, [kind for kind, _ in kinds.most_common()]


def _safetensors_header(path: Path) -> dict[str, Any]:
    """The header: eight bytes of its length, then JSON."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("its header is longer than the file")
            return json.loads(file.read(length))
    except (OSError, ValueError, struct.error) as error:
        raise CheckpointError(f"{path} is no readable safetensors file ({error}); fetch it again") from error


def _token_text(vocabulary: dict[str, Any]) -> str:
    if any(isinstance(value, dict) for value in vocabulary.values()):
        return f"{len(vocabulary)} languages: {', '.join(vocabulary)}"
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    shown = " ".join(tokens[:40])
    return f"{len(tokens)}: {shown}{' ...' if len(tokens) > 40 else ''}"


def _from_card(card: Path) -> Iterator[tuple[str, str]]:
    """The licence as the model card's front matter gives it, and where the card is."""
    try:
        text = card.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    licence = re.search(r"^license:\s*(.+)$", front[1], re.MULTILINE) if front else None
    if licence:
        yield "licence", licence[1].strip()
    yield "card", str(card)


def size_text(size_bytes: int) -> str:
    """Bytes as 14.8 MB or 378 MB."""
    size = size_bytes / 1e6
    return f"{size:.1f} MB" if size < 100 else f"{size:.0f} MB"

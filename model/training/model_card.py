"""The model card that ends a training run: what was trained, on what, how, and what it reached."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .run_folder import machine, write_atomically

if TYPE_CHECKING:
    from .manifest import Utterance
    from .trainer import Trainer

CARD = "README.md"


def data_table(utterances: Sequence[Utterance]) -> str:
    """Hours, recordings and speakers of each corpus, as a table in Markdown."""
    rows: dict[str, list[Any]] = defaultdict(lambda: [0.0, 0, set()])
    for u in utterances:
        row = rows[u.corpus]
        row[0] += u.duration_s / 3600
        row[1] += 1
        row[2] |= {u.speaker} - {""}
    lines = ["| corpus | hours | recordings | named speakers |", "| --- | ---: | ---: | ---: |"]
    for corpus in sorted(rows):
        hours, count, speakers = rows[corpus]
        lines.append(f"| {corpus} | {hours:.2f} | {count} | {len(speakers)} |")
    return "\n".join(lines)


def figures_table(figures: Mapping[str, float]) -> str:
    """Measured figures by name."""
    lines = ["| figure | value |", "| --- | ---: |"]
    return "\n".join(lines + [f"| {name} | {value:.4g} |" for name, value in figures.items()])


def contexts_text(contexts: Mapping[str, float]) -> str:
    """Streaming contexts and their shares in a line."""
    return ", ".join(f"`{name}` {share:g}" for name, share in contexts.items())


def card_text(trainer: Trainer, train: Sequence[Utterance]) -> str:
    """The card of a run, with front matter as model hubs read it."""
    settings, progress = trainer.settings, trainer.progress
    config = trainer.model.config
    parameters = sum(p.numel() for p in trainer.parameters)
    end = "ended" if progress.stage == len(settings.stages) else "was stopped before its end"
    here = machine()
    place = here.get("gpu", here["processor"])
    measured = (
        f"On the dev split, averaged weights, context `{settings.dev_context}` where it streams:\n\n"
        + figures_table(trainer.measured)
        if trainer.measured
        else "Nothing was measured in this run: it had no dev split, or was stopped before the first measurement."
    )
    stages = "".join(
        f" In the stage {stage.name!r}: {contexts_text(stage.contexts)}." for stage in settings.stages if stage.contexts
    )
    front = f"---\nlicense: {settings.licence}\n" if settings.licence else "---\n"
    return f"""{front}library_name: wavlm-live
tags: [wavlm, streaming, {trainer.task}]
---

# A streaming WavLM, trained for {trainer.task}

{parameters / 1e6:.2f} million parameters: {config.num_hidden_layers} layers of width {config.hidden_size}, front end
{"x".join(str(c) for c in config.conv_dim)}.
The run {end} after {progress.step} steps, {progress.elapsed_s / 60:.1f} minutes and
{progress.heard_s / 3600:.2f} hours of sound (recordings count each time they are heard); {progress.skipped} steps were
left out because something was not finite. {trainer.engine.size} process(es) on {place}, torch {here["torch"]}.

## Figures

{measured}

## Training data

{data_table(train)}

Name the source and the licence of each corpus here before you publish the weights.

## Contexts

Trained under these streaming contexts ("left,chunk,right" in frames of 20 ms) with their shares of the steps:
{contexts_text(settings.contexts)}.{stages}

## Recipe

```json
{json.dumps(settings.to_dict(), indent=1, default=str)}
```
"""


def write_card(trainer: Trainer, train: Sequence[Utterance]) -> None:
    """Write the card into the folder of the run.

    Raises:
        CheckpointError: it cannot be written.
    """
    text = card_text(trainer, train).encode()
    write_atomically(trainer.folder.path / CARD, lambda f: f.write(text))

"""What training minimises, and how the optimiser treats the weights."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def ctc_loss(
    logits: Tensor, labels: Tensor, frame_lengths: Tensor, label_lengths: Tensor, characters: int | None = None
) -> Tensor:
    """CTC negative log-likelihood per character of the batch (Graves et al. 2006), float32 scalar; blank 0.

    Args:
        logits: [batch, frames, vocabulary].
        labels: [batch, characters], anything after `label_lengths`.
        frame_lengths: [batch].
        label_lengths: [batch].
        characters: what the sum is divided by; None: the characters of these rows.
    """
    log_probs = F.log_softmax(logits.float(), dim=-1).transpose(0, 1)
    targets = torch.where(labels > 0, labels, 0)
    total = F.ctc_loss(log_probs, targets, frame_lengths, label_lengths, reduction="sum", zero_infinity=True)
    return total / (label_lengths.sum().clamp(min=1) if characters is None else characters)


def divergence(student: Tensor, teacher: Tensor, frame_lengths: Tensor, temperature: float = 1.0) -> Tensor:
    """Kullback-Leibler divergence from the teacher's distribution, summed over valid frames, times temperature squared.

    Args:
        student: logits, [batch, frames, vocabulary].
        teacher: logits of the same shape.
        frame_lengths: [batch].
    """
    log_p, log_q = (F.log_softmax(x.float() / temperature, -1) for x in (teacher, student))
    each = (log_p.exp() * (log_p - log_q)).sum(-1)  # [batch, frames]
    valid = torch.arange(each.shape[1], device=each.device) < frame_lengths[:, None].to(each.device)
    return torch.where(valid, each, 0.0).sum() * temperature**2


def is_under(name: str, prefix: str) -> bool:
    """Whether a parameter's name is `prefix` or continues it after a dot."""
    return name == prefix or name.startswith(f"{prefix.rstrip('.')}.")


def rate_of(name: str, factors: Mapping[str, float], layer_decay: float, layers: int) -> float:
    """Factor on a parameter's learning rate: that of its longest prefix, times the decay towards the input.

    The last layer and the heads have none of the decay, what lies before the first layer has it once more than that.
    """
    named = max((p for p in factors if is_under(name, p)), key=len, default=None)
    factor = factors[named] if named is not None else 1.0
    if layer_decay != 1.0:
        if found := re.search(r"\bencoder\.layers\.(\d+)\.", name):
            factor *= layer_decay ** (layers - 1 - int(found[1]))
        elif re.search(r"\b(feature_extractor|feature_projection|masked_spec_embed|pos_conv_embed)\b", name):
            factor *= layer_decay**layers
    return factor


def parameter_groups(
    model: nn.Module, weight_decay: float, rate: Callable[[str], float] = lambda name: 1.0
) -> list[dict[str, Any]]:
    """AdamW's groups: matrices and kernels decay; norms, biases and other vectors do not.

    Each group has the `factor` of its learning rate; those of the highest factor come first.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        groups.setdefault((-rate(name), sum(n > 1 for n in p.shape) < 2), []).append(p)
    return [
        {"params": members, "weight_decay": 0.0 if vector else weight_decay, "factor": -factor}
        for (factor, vector), members in sorted(groups.items(), key=lambda item: item[0])
    ]


def rate_factor(schedule: str, step: int, warmup_steps: int, done: float) -> float:
    """Share of the peak learning rate at a step.

    Args:
        schedule: "linear" or "cosine": warm-up by steps, then the fall with the share of the run that is done;
            "tristage": by that share alone.
        step: from 0.
        warmup_steps: of the first two.
        done: share of the run, 0 to 1.
    """
    done = min(done, 1.0)
    if schedule == "tristage":
        if done < 0.1:
            return 0.01 + 0.99 * done / 0.1
        return 1.0 if done < 0.5 else 0.05 ** ((done - 0.5) / 0.5)
    fall = 1.0 - done if schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return min(1.0, (step + 1) / max(1, warmup_steps)) * fall


@torch.no_grad()
def update_average(average: list[Tensor], weights: list[nn.Parameter], decay: float, done: int) -> None:
    """Move the running average towards the weights. Young averages (after `done` steps) forget faster.

    Otherwise the random first weights would stay in for thousands of steps.
    """
    share = 1.0 - min(decay, (1.0 + done) / (10.0 + done))
    for mean, weight in zip(average, weights, strict=True):
        mean.lerp_(weight, share)

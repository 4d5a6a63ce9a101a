"""What training minimises, and how the optimiser treats the weights."""

from __future__ import annotations

import math
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


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW's groups: matrices and kernels decay; norms, biases and other vectors do not."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.squeeze().ndim >= 2]
    others = [p for p in model.parameters() if p.requires_grad and p.squeeze().ndim < 2]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def rate_factor(schedule: str, step: int, warmup_steps: int, done: float) -> float:
    """Share of the peak learning rate at a step: warm-up by steps, then the fall with the share `done` of the run."""
    done = min(done, 1.0)
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

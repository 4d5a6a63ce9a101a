"""Attention with gated relative position bias as the plain formula: materialised scores, any precision, autograd.

For attention weights, which nothing faster can return, and for reading: what the kernels compute.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .attention_tiles import shear_rows
from .full_attention_torch import hidden_score


def attention_with_weights(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, rel: Tensor, *, lengths: Tensor | None = None, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Whole utterances; memory grows with frames x frames.

    Args:
        q, k, v: `[batch, frames, heads, size]`.
        gate: `[batch, frames, heads]`.
        rel: `[heads, 2 * reach + 1]`, see `relative_vector`.
        lengths: int `[batch]`, valid frames of each row; None: all.
        dropout: probability on the attention weights.

    Returns:
        `[batch, frames, heads, size]` and the weights before dropout, `[batch, heads, frames, frames]`.
    """
    frames = q.shape[1]
    q, k, v, gate = (x.transpose(1, 2) for x in (q, k, v, gate))
    bias = shear_rows(rel, torch.arange(frames, device=rel.device), max(0, frames - 1), 0, frames)
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + gate.unsqueeze(-1) * bias
    if lengths is not None:
        hidden = torch.arange(frames, device=lengths.device) >= lengths[:, None, None, None]
        scores = scores.masked_fill(hidden, hidden_score(scores.dtype))
    weights = scores.softmax(-1, dtype=torch.promote_types(q.dtype, torch.float32)).to(q.dtype)
    return (F.dropout(weights, dropout) @ v).transpose(1, 2), weights

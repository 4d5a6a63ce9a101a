"""Self-attention with gated relative position bias (Chen et al. 2021, section IV-A)."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels import relative_vector
from .config import WavLMConfig


class Layout(Protocol):
    """How the queries of a layer find their keys: whole utterance, copied chunks, or a stream's rings."""

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, gate: Tensor, dropout: float
    ) -> tuple[Tensor, Tensor | None]:
        """q, k, v `[..., heads, size]`, gate `[..., heads]` -> the same shape as q, and weights if asked for."""
        ...


class GatedAttention(nn.Module):
    """Multi-head attention whose bias is a table over distances times a gate of the query.

    r = d + g_u d + (1 - g_u) (w g_r d) in the paper; with a = 1 - g_u and b = g_r the factor of the bias is
    a (b w - 1) + 2.
    """

    def __init__(self, config: WavLMConfig, index: int):
        super().__init__()
        hidden, heads = config.hidden_size, config.num_attention_heads
        self.index, self.heads, self.size = index, heads, config.head_size
        self.dropout = config.attention_dropout
        self.max_distance = config.max_bucket_distance
        self.k_proj = nn.Linear(hidden, hidden)
        self.v_proj = nn.Linear(hidden, hidden)
        self.q_proj = nn.Linear(hidden, hidden)
        self.out_proj = nn.Linear(hidden, hidden)
        self.gru_rel_pos_const = nn.Parameter(torch.ones(1, heads, 1, 1))
        self.gru_rel_pos_linear = nn.Linear(self.size, 8)
        if index == 0:  # one table serves all layers
            self.rel_attn_embed = nn.Embedding(config.num_buckets, heads)

    def relative_vector(self, reach: int) -> Tensor:
        """The bias of distances up to `reach` frames, `[heads, 2 * reach + 1]` (first layer only)."""
        return relative_vector(self.rel_attn_embed.weight, reach, self.max_distance)

    def gate(self, x: Tensor) -> Tensor:
        """The factor of the bias for each query: `[..., hidden]` -> `[..., heads]`.

        The published projection to 8 values is summed in fours, so its weights are summed instead.
        """
        heads = x.unflatten(-1, (self.heads, self.size))
        weight = self.gru_rel_pos_linear.weight.unflatten(0, (2, 4)).sum(1)
        bias = self.gru_rel_pos_linear.bias.unflatten(0, (2, 4)).sum(1)
        a, b = torch.sigmoid(F.linear(heads, weight, bias)).unbind(-1)
        return a * (b * self.gru_rel_pos_const.flatten() - 1.0) + 2.0

    def forward(self, x: Tensor, layout: Layout) -> tuple[Tensor, Tensor | None]:
        """`[..., frames, hidden]` -> the same shape, and the attention weights where the layout gives them."""
        split = (self.heads, self.size)
        out, weights = layout.attend(
            self.index,
            self.q_proj(x).unflatten(-1, split),
            self.k_proj(x).unflatten(-1, split),
            self.v_proj(x).unflatten(-1, split),
            self.gate(x),
            self.dropout if self.training else 0.0,
        )
        return self.out_proj(out.flatten(-2)), weights

"""The transformer encoder, post-norm (base) and stable (large), over any of the three layouts."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .activations import activation
from .attention import GatedAttention, Layout
from .config import WavLMConfig
from .position import ConvolutionalPosition


class FeedForward(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, config: WavLMConfig):
        super().__init__()
        self.intermediate_dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.output_dense = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = activation(config.hidden_act)
        self.inner_dropout = config.activation_dropout
        self.outer_dropout = config.hidden_dropout

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(self.activation(self.intermediate_dense(x)), self.inner_dropout, self.training)
        return F.dropout(self.output_dense(x), self.outer_dropout, self.training)


class EncoderLayer(nn.Module):
    """Attention and feed-forward, each with a residual connection.

    Post-norm: x = LN(x + attention(x)); x = LN(x + ffn(x)).
    Stable: x = x + attention(LN(x)); x = x + ffn(LN(x)).
    """

    def __init__(self, config: WavLMConfig, index: int):
        super().__init__()
        self.stable = config.do_stable_layer_norm
        self.dropout = config.hidden_dropout
        self.attention = GatedAttention(config, index)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, layout: Layout) -> tuple[Tensor, Tensor | None]:
        """`[..., frames, hidden]` -> the same shape, and attention weights where the layout gives them."""
        attended, weights = self.attention(self.layer_norm(x) if self.stable else x, layout)
        x = x + F.dropout(attended, self.dropout, self.training)
        if self.stable:
            return x + self.feed_forward(self.final_layer_norm(x)), weights
        x = self.layer_norm(x)
        return self.final_layer_norm(x + self.feed_forward(x)), weights


class Encoder(nn.Module):
    """Position, layers and norm (names of transformers)."""

    def __init__(self, config: WavLMConfig):
        super().__init__()
        self.config = config
        self.pos_conv_embed = ConvolutionalPosition(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(EncoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.gradient_checkpointing = False

    def relative_vector(self, reach: int) -> Tensor:
        """The bias vector that all layers share, `[heads, 2 * reach + 1]`."""
        first = self.layers[0]
        assert isinstance(first, EncoderLayer)
        return first.attention.relative_vector(reach)

    def forward(
        self, x: Tensor, position: Tensor, layout: Layout, collect: bool = False
    ) -> tuple[Tensor, list[Tensor], list[Tensor | None]]:
        """Run the layers.

        Args:
            x: `[..., frames, hidden]`, in the shape that the layout works on.
            position: the same shape, of `pos_conv_embed`.
            layout: how queries find keys.
            collect: also return the input of the first layer and the output of each.

        Returns:
            the normed output, collected hidden states, attention weights of each layer.
        """
        config = self.config
        x = x + position
        if not config.do_stable_layer_norm:
            x = self.layer_norm(x)
        x = F.dropout(x, config.hidden_dropout, self.training)
        hidden = [x] if collect else []
        attentions: list[Tensor | None] = []
        for index, layer in enumerate(self.layers):
            skipped = self.training and index > 0 and float(torch.rand(())) < config.layerdrop
            if skipped:
                attentions.append(None)
            elif self.gradient_checkpointing and self.training:
                x, weights = checkpoint(layer, x, layout, use_reentrant=False)  # type: ignore[misc]
                attentions.append(weights)
            else:
                x, weights = layer(x, layout)
                attentions.append(weights)
            if collect:
                hidden.append(x)
        if config.do_stable_layer_norm:
            x = self.layer_norm(x)
        return x, hidden, attentions

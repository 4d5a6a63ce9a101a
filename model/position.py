"""The convolutional position: a wide grouped convolution whose output is added to the frames."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..kernels import channels_last, position_convolution
from .activations import activation
from .config import WavLMConfig


class ConvolutionalPosition(nn.Module):
    """Kernel 128 over frames, 16 groups, weight norm over the kernel's dimension, activation.

    A kernel K reads K // 2 frames to the left of its output and K - 1 - K // 2 to the right: 64 and 63.
    In a stream, frames that the step may not see count as zeros.
    """

    def __init__(self, config: WavLMConfig):
        super().__init__()
        kernel = config.num_conv_pos_embeddings
        conv = nn.Conv1d(
            config.hidden_size,
            config.hidden_size,
            kernel,
            padding=kernel // 2,
            groups=config.num_conv_pos_embedding_groups,
        )
        self.conv = nn.utils.parametrizations.weight_norm(conv, name="weight", dim=2)
        self.before = kernel // 2
        self.behind = kernel - 1 - kernel // 2
        self.groups = config.num_conv_pos_embedding_groups
        self.gelu = config.feat_extract_activation == "gelu"
        self.activation = activation(config.feat_extract_activation)
        self._folded: tuple[tuple[object, ...], Tensor] | None = None

    def weight(self) -> Tensor:
        """The weight with its norm multiplied in; kept between calls as long as no gradient is needed."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return cast(Tensor, self.conv.weight)
        parts = cast(Any, self.conv).parametrizations["weight"]
        g, v = parts.original0, parts.original1
        if g.is_inference() or v.is_inference():  # these count no versions, so a change would go unseen
            return cast(Tensor, self.conv.weight)
        key = (g.data_ptr(), v.data_ptr(), g._version, v._version, v.dtype, v.device)
        if self._folded is None or self._folded[0] != key:
            with torch.inference_mode(False), torch.no_grad():  # usable in and outside of inference mode
                folded = cast(Tensor, self.conv.weight)
                self._folded = (key, channels_last(folded) if folded.is_cuda else folded)  # as the kernel reads it
        return self._folded[1]

    def forward(
        self,
        x: Tensor,
        kept: Tensor | None = None,
        slots: Tensor | None = None,
        known: Tensor | None = None,
        counts: Tensor | None = None,
    ) -> Tensor:
        """The position of every frame of `[rows, frames, hidden]`, zeros beyond both ends.

        In a stream, `kept` frames stand before those of `x`; arguments and shapes of `kernels.position_convolution`.
        """
        bias = cast(Tensor, self.conv.bias)
        out = position_convolution(
            x,
            self.weight(),
            bias,
            groups=self.groups,
            gelu=self.gelu,
            kept=kept,
            slots=slots,
            known=known,
            counts=counts,
        )
        return out if self.gelu else self.activation(out)

    def chunked(self, x: Tensor, left: int, chunk: int, right: int) -> Tensor:
        """The positions of all chunks of a streaming context in one pass.

        Args:
            x: `[batch, chunks * chunk + right, hidden]`, frames beyond the utterance being zeros.
            left, chunk, right: the context in frames.

        Returns:
            `[batch, chunks, chunk + right, hidden]`.
        """
        batch, frames, _ = x.shape
        chunks = (frames - right) // chunk
        seen = min(self.before, left)
        padded = F.pad(x, (0, 0, seen, 0))
        windows = padded.unfold(1, seen + chunk + right, chunk).transpose(2, 3)  # [B, chunks, seen + C + R, H]
        windows = windows.flatten(0, 1)
        return self(windows[:, seen:], windows[:, :seen]).unflatten(0, (batch, chunks))

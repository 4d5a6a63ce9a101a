"""`KernelWeight`: a convolution's weight in the layout that the kernels read, kept as long as the weight stays."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels import channels_last


class KernelWeight:
    """Keeps `channels_last(weight)` of one weight.

    Only on CUDA and without gradients: elsewhere torch's formula reads any layout, and laying out is free.
    """

    def __init__(self) -> None:
        self._kept: tuple[tuple[object, ...], Tensor] | None = None

    def of(self, weight: Tensor) -> Tensor:
        """The weight `[outputs, inputs, kernel]`, with the same values."""
        if weight.device.type != "cuda" or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return weight
        if weight.is_inference():  # these count no versions, so a change would go unseen
            return weight
        key = (weight.data_ptr(), weight._version, weight.dtype, weight.device)
        if self._kept is None or self._kept[0] != key:
            with torch.inference_mode(False), torch.no_grad():  # usable in and outside of inference mode
                self._kept = (key, channels_last(weight))
        return self._kept[1]

    def __deepcopy__(self, memo: object) -> KernelWeight:
        return KernelWeight()

    def __reduce__(self) -> tuple[type[KernelWeight], tuple[()]]:
        return (KernelWeight, ())  # made anew by each process
